"""Stage ``tune``: search the configuration that serves most, and write it with all that raced."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from litmeter.data.index import read_index
from litmeter.errors import ApiError, ParamsError
from litmeter.load import LoadGenerator, load_generator
from litmeter.measure.bodies import Bodies, bodies_of
from litmeter.measure.log import unfinished_log
from litmeter.measure.preflight import check_apis
from litmeter.measure.rows import TurnRow
from litmeter.measure.run import run
from litmeter.measure.subjects import InProcess, Served, Subject
from litmeter.model.card import served_digest
from litmeter.model.compiled.manifest import read_manifest
from litmeter.model.device import params_on
from litmeter.params import CANDIDATE, KNOBS, Params, ServeSettings, knobs_of
from litmeter.paths import MACHINE, MODEL, ON_DEMAND_DVC_FILE, TUNE_KNOBS, TUNE_METRICS, TUNE_TABLE
from litmeter.say.progress import print_wrapped
from litmeter.system import files
from litmeter.system.cores import whole_cores
from litmeter.system.machine import recorded_machine
from litmeter.tune.rows import KnobRow, TuneRow
from litmeter.tune.search import Job, Outcome, search
from litmeter.tune.space import Machine, machine_of, name_of, simplicity, space_of

DIRECT = "transport direct"
"""Name of what is checked to know whether a LitAPI can be served so."""


def main() -> tuple[Outcome, Sequence[TurnRow]]:
    """Search, and write the result; return it with all turns. A stopped search goes on where it was.

    Its time counts from when the machine is free. Raise ParamsError where the section ``serve`` cannot be
    tuned.
    """
    params, device = params_on(files.read_json(MACHINE))
    check_tunable(params)
    photos = [Path(photo.path) for photo in read_index().photos] if params.serve.kind == "classifier" else []
    bodies = bodies_of(params.load)
    files.check_writable([TUNE_METRICS, TUNE_TABLE, TUNE_KNOBS])
    began = time.monotonic()
    with load_generator(*bodies) as generator:
        job = job_of(params, device, photos, bodies)
        log = unfinished_log("tune", key_of(params, device, bodies.contents))
        subjects = subjects_of(job, generator, device, photos, bodies)
        outcome = run(search(job), subjects, log, params.tune.max_s, spent_s=time.monotonic() - began)
    with files.all_or_nothing():
        files.write_json(TUNE_METRICS, metrics_of(params, outcome, log.reached_s))
        files.write_rows(TUNE_TABLE, TuneRow, outcome.rows)
        files.write_rows(TUNE_KNOBS, KnobRow, outcome.knobs)
    log.remove_unfinished()
    return outcome, log.rows


def check_tunable(params: Params) -> None:
    """Raise ParamsError where there is nothing to tune, or ``tune`` has values of knobs that it has not."""
    kind, knobs = params.serve.kind, knobs_of(params.serve.kind)
    if CANDIDATE not in params.configurations():
        raise ParamsError("serve: missing; the configuration that the search begins with")
    if not knobs:
        raise ParamsError("serve.command: a command has no knobs; allowed for tuning: api, or the classifier")
    if others := [knob for knob in KNOBS if knob in params.tune.model_fields_set and knob not in knobs]:
        raise ParamsError(f"tune.{others[0]}: unknown key; allowed for {kind}: {', '.join(knobs)}")


def job_of(params: Params, device: str, photos: Sequence[Path], bodies: Bodies) -> Job:
    """What the search works on; raise ApiError where no configuration of a LitAPI can be served."""
    if params.serve.kind == "api":
        return job_of_api(params, device, bodies)
    machine = machine_of(device, photos)
    space = space_of(params.tune, params.serve, machine)
    agreement = agreement_of(device, photos)
    return Job(params.tune, params.serve, params.load, params.objective, machine, space, agreement)


def job_of_api(params: Params, device: str, bodies: Bodies) -> Job:
    """The same for a LitAPI of one's own, without the batch sizes at which it fails or answers otherwise."""
    tune, machine = params.tune, Machine(device, whole_cores())
    space = space_of(tune, params.serve, machine)
    job = Job(tune, params.serve, params.load, params.objective, machine, space, lambda one: 1.0)
    workers = min(2, max(one.workers_per_device for one in job.configurations))
    alone: dict[str, Any] = {"workers_per_device": workers, "threads_per_worker": 1, "batch_timeout_s": 0.0}
    alone["transport"] = "litserve"
    by_size = {one.max_batch_size: one.model_copy(update=alone) for one in job.configurations}
    names = {f"max_batch_size {size}": size for size in sorted(by_size)}
    print_wrapped(f"0. answers at max_batch_size {', '.join(map(str, names.values()))} are checked")
    to_check = {name: by_size[size] for name, size in names.items()}
    if any(one.transport == "direct" for one in job.configurations):
        to_check[DIRECT] = by_size[min(by_size)].model_copy(update={"transport": "direct"})
    checked = check_apis(to_check, bodies, device, params.load.timeout_s)
    notes = [note.partition(": ")[2] for one in checked.values() for note in one.notes]
    print_wrapped("\n".join(dict.fromkeys(notes)))
    faults = {name: one.fault for name, one in checked.items() if one.fault}
    by_transport = {"direct": faults.pop(DIRECT)} if DIRECT in faults else {}
    by_batch = {names[name]: fault for name, fault in faults.items()}
    machine = replace(machine, batch_sizes=by_batch, transports=by_transport)
    space, serve = space_of(tune, params.serve, machine), params.serve
    if fault := by_batch.get(job.incumbent.max_batch_size) or by_transport.get(job.incumbent.transport):
        if not space.configurations:
            raise ApiError(fault)
        serve = min(space.configurations, key=simplicity)
        print_wrapped(f"{fault}\n{name_of(serve)} takes the place of serve:, with which all are compared")
    unavailable = next((one.unavailable for one in checked.values() if one.unavailable), "")
    return replace(job, serve=serve, machine=machine, space=space, unavailable=unavailable)


def agreement_of(device: str, photos: Sequence[Path]) -> Callable[[ServeSettings], float]:
    """The share of the photos with the label of full precision, by what answers depend on, each found once.

    Photos that the model was fitted to are left out: with them it agrees too well.
    """
    from litmeter.model.answers import answers_of
    from litmeter.model.reference import read_reference

    reference = read_reference(MODEL.exported)
    numbers = [number for number, split in enumerate(reference.splits) if split != "train"]
    expected = reference.probabilities[numbers].argmax(axis=1)
    found: dict[tuple[str, str, bool], float] = {}

    def agreement(settings: ServeSettings) -> float:
        key = settings.precision, settings.preprocess, settings.compiled
        if key not in found:
            [answers] = answers_of(MODEL, device, [settings], [photos[number] for number in numbers])
            found[key] = float((answers.argmax(axis=1) == expected).mean())
        return found[key]

    return agreement


def subjects_of(
    job: Job, sender: LoadGenerator, device: str, photos: Sequence[Path], bodies: Bodies
) -> dict[str, Subject]:
    """All that the search may measure."""
    timeout_s = job.load.timeout_s
    subjects: dict[str, Subject] = {
        part.subject: Served(part.name, part.settings, sender, MODEL, "cpu", timeout_s, null_model=True)
        if part.kind == "request"
        else InProcess(part.name, part.settings, MODEL, device, photos, bodies)
        for part in job.parts
    }
    for one in job.configurations:
        subjects[name_of(one)] = Served(name_of(one), one, sender, MODEL, device, timeout_s)
    return subjects


def key_of(params: Params, device: str, bodies: list[bytes]) -> str:
    """Hash of all that the turns of a search depend on."""
    classifier = params.serve.kind == "classifier"
    content: dict[str, Any] = {
        **recorded_machine(),
        "model": served_digest(params),
        "packages": [one.sha256 for one in read_manifest(MODEL, device).packages] if classifier else [],
        "code": files.code_digest(ON_DEMAND_DVC_FILE, "tune"),
        "device": device,
        "bodies": files.digest(b"".join(bodies)),
        "params": params.model_dump(include={"load", "objective", "serve", "tune"}),
    }
    return files.digest(json.dumps(content, sort_keys=True).encode())


def metrics_of(params: Params, outcome: Outcome, seconds: float) -> dict[str, Any]:
    """Content of metrics/tune.json."""
    first = outcome.rows[0]
    columns = ("rate_rps", "over_serve", "over_serve_low", "over_serve_high", "p95_ms", "memory_mib")
    return {
        "goal": params.tune.goal,
        "users": params.tune.users,
        "winner": {knob: getattr(outcome.winner, knob) for knob in knobs_of(outcome.winner.kind)},
        **{column: getattr(first, column) for column in (*columns, "agreement")},
        "capacity": outcome.capacity and asdict(outcome.capacity),
        "equal": sum(row.status == "equal" for row in outcome.rows),
        "not_resolved": sum(row.status == "not resolved" for row in outcome.rows),
        "model_error": files.rounded(outcome.prediction_error, 3),
        "combinations": outcome.combinations,
        "raced": len(outcome.rows),
        "rounds": outcome.rounds,
        "settled": outcome.settled,
        "seconds": round(seconds),
        **recorded_machine(),
        "measured_at": f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC",
        "weights_sha256": served_digest(params),
        "left_out": dict(outcome.left_out),
    }
