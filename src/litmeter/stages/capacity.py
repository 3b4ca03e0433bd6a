"""Stage ``capacity``: the highest rates at which configurations keep to the objective."""

from __future__ import annotations

import dataclasses
from datetime import datetime, timezone

from litmeter.load import load_generator
from litmeter.measure.capacity import CapacityMetrics, capacity
from litmeter.measure.checks import check_all, refuse_faulty
from litmeter.measure.log import unfinished_log
from litmeter.measure.rows import TurnRow
from litmeter.measure.run import progress, run
from litmeter.measure.subjects import Served
from litmeter.params import params_on
from litmeter.paths import CAPACITY_FOLDERS, MACHINE, ON_DEMAND_DVC_FILE, CapacityPaths
from litmeter.say.progress import print_wrapped
from litmeter.system import files
from litmeter.system.dvc_file import code_digest
from litmeter.system.machine import recorded_machine


def main() -> dict[str, CapacityMetrics]:
    """Search those of ``objective.configurations``, side by side, and write each with its turns.

    A stopped search goes on where it was.
    """
    params, device = params_on(files.read_json(MACHINE))
    load, objective = params.load, params.objective
    params.served_card()
    bodies = params.bodies()
    settings = {name: params.configuration(name) for name in objective.configurations}
    files.check_writable(path for name in settings for path in CapacityPaths(name).outputs)
    searched = {name: next(one for one in settings if settings[one] == settings[name]) for name in settings}
    names = [name for name, other in searched.items() if name == other]
    seconds = objective.max_s * len(names)
    origin = {**recorded_machine(), "weights_sha256": params.served_digest()}
    content = {
        **origin,
        "code": code_digest(ON_DEMAND_DVC_FILE, "capacity"),
        "bodies": bodies.digest,
        "params": params.model_dump(include={"load", "objective"}),
        "configurations": {name: settings[name].identity(device) for name in names},
    }
    log = unfinished_log("capacity", files.json_digest(content))
    with load_generator(*bodies) as sender:
        refuse_faulty(check_all({name: settings[name] for name in names}, bodies, device, load.timeout_s))
        subjects = {name: Served(name, settings[name], sender, device, load.timeout_s) for name in names}
        with progress(seconds, "capacity") as show:
            found = run(capacity(names, objective, load.timeout_s), subjects, log, seconds, show)
    provenance = origin | {"measured_at": f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC"}
    with files.all_or_nothing():
        for name, other in searched.items():
            paths = CapacityPaths(name)
            own = {"settings": files.digest(settings[name].model_dump_json().encode())}
            files.write_json(paths.metrics, dataclasses.asdict(found[other].metrics) | provenance | own)
            files.write_rows(paths.probes, TurnRow, found[other].rows)
    log.remove_unfinished()
    for path in (path for folder in CAPACITY_FOLDERS for path in folder.glob("[!.]*")):
        if path.stem not in settings:
            print_wrapped(f"{path}: removed, as objective.configurations does not list {path.stem}")
            path.unlink()
    return {name: found[other].metrics for name, other in searched.items()}
