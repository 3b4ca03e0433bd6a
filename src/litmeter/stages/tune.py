"""Stage ``tune``: search the configuration that serves most, and write it with all that raced."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

from litmeter.errors import ApiError, ParamsError
from litmeter.kinds.configuration import Configuration, Host
from litmeter.kinds.registry import KINDS
from litmeter.load import LoadGenerator, load_generator
from litmeter.load.bodies import Bodies
from litmeter.measure.log import unfinished_log
from litmeter.measure.rows import TurnRow
from litmeter.measure.run import run
from litmeter.measure.subjects import Served, Subject
from litmeter.params import Params, params_on
from litmeter.paths import MACHINE, ON_DEMAND_DVC_FILE, TUNE_KNOBS, TUNE_METRICS, TUNE_TABLE
from litmeter.say.progress import print_wrapped
from litmeter.settings import CANDIDATE
from litmeter.system import files
from litmeter.system.cores import whole_cores
from litmeter.system.dvc_file import code_digest
from litmeter.system.machine import recorded_machine
from litmeter.tune.rows import KnobRow, TuneMetrics, TuneRow
from litmeter.tune.search import Job, Outcome, search
from litmeter.tune.space import space_of


def main() -> tuple[Outcome, Sequence[TurnRow]]:
    """Search, and write the result; return it with all turns. A stopped search goes on where it was.

    Its time counts from when the machine is free. Raise ParamsError where the section ``serve`` cannot be
    tuned.
    """
    params, device = params_on(files.read_json(MACHINE))
    if CANDIDATE not in params.configurations():
        raise ParamsError("serve: missing; the configuration that the search begins with")
    if not params.serve.knobs:
        tunable = " or ".join(kind.kind for kind in KINDS if kind.knobs)
        raise ParamsError(f"serve: a {params.serve.kind} has no knobs; allowed for tuning: {tunable}")
    bodies = params.bodies()
    files.check_writable([TUNE_METRICS, TUNE_TABLE, TUNE_KNOBS])
    began = time.monotonic()
    with load_generator(*bodies) as generator:
        job = job_of(params, device, bodies)
        log = unfinished_log("tune", key_of(params, device, bodies))
        subjects = subjects_of(job, generator, device)
        outcome = run(search(job), subjects, log, params.tune.max_s, spent_s=time.monotonic() - began)
    with files.all_or_nothing():
        files.write_json(TUNE_METRICS, metrics_of(params, outcome, log.reached_s).model_dump(mode="json"))
        files.write_rows(TUNE_TABLE, TuneRow, outcome.rows)
        files.write_rows(TUNE_KNOBS, KnobRow, outcome.knobs)
    log.remove_unfinished()
    return outcome, log.rows


def job_of(params: Params, device: str, bodies: Bodies) -> Job:
    """What the search works on, without the values of knobs that cannot be used here.

    Where ``serve`` itself answers wrongly, the simplest of the other configurations takes its place. Raise
    ApiError where all answer wrongly.
    """
    serve: Configuration = params.serve.with_knobs()
    tune, machine = params.tune, Host(device, whole_cores())
    every = Job(tune, serve, params.load, params.objective, space_of(tune, serve, machine), None)
    machine = serve.tried(every.configurations, machine, bodies, params.load.timeout_s)
    space = space_of(tune, serve, machine)
    if (excluded := machine.excluded(every.incumbent)) and excluded.is_fault:
        if not space.configurations:
            raise ApiError(excluded.reason)
        serve = min(space.configurations, key=lambda one: one.simplicity)
        print_wrapped(
            f"{excluded.reason}\n{serve.search_name} takes the place of serve:, with which all are compared"
        )
    named = getattr(tune, serve.lever("workers") or "", None) or device != "cpu"
    cores = None if named else machine.cores
    return replace(every, serve=serve, space=space, agreement=serve.agreement(device), cores=cores)


def subjects_of(job: Job, sender: LoadGenerator, device: str) -> dict[str, Subject]:
    """All that the search may measure."""
    # Whoever fails requests violates a constraint.
    return {
        one.search_name: Served(one.search_name, one, sender, device, job.load.timeout_s, tries_bodies=False)
        for one in job.configurations
    }


def key_of(params: Params, device: str, bodies: Bodies) -> str:
    """Hash of all that the turns of a search depend on."""
    content: dict[str, Any] = {
        **recorded_machine(),
        "model": params.served_digest(),
        "packages": params.serve.search_identity(device),
        "code": code_digest(ON_DEMAND_DVC_FILE, "tune"),
        "device": device,
        "bodies": bodies.digest,
        "params": params.model_dump(include={"load", "objective", "serve", "tune"}),
    }
    return files.json_digest(content)


def metrics_of(params: Params, outcome: Outcome, seconds: float) -> TuneMetrics:
    """The winner, and what was searched in how many ``seconds``."""
    first = outcome.rows[0]
    return TuneMetrics(
        goal=params.tune.goal,
        users=params.tune.users,
        winner={knob: getattr(outcome.winner, knob) for knob in outcome.winner.knobs},
        rate_rps=first.rate_rps,
        over_serve=first.over_serve,
        over_serve_low=first.over_serve_low,
        over_serve_high=first.over_serve_high,
        p95_ms=first.p95_ms,
        memory_mib=first.memory_mib,
        agreement=first.agreement,
        capacity=outcome.capacity,
        equal=sum(row.status == "equal" for row in outcome.rows),
        not_resolved=sum(row.status == "not resolved" for row in outcome.rows),
        combinations=outcome.combinations,
        raced=len(outcome.rows),
        rounds=outcome.rounds,
        settled=outcome.settled,
        fresh_rounds=outcome.fresh_rounds,
        seconds=round(seconds),
        **recorded_machine(),
        measured_at=f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC",
        weights_sha256=params.served_digest(),
        left_out=outcome.left_out,
    )
