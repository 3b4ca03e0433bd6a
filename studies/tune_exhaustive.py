"""Whether the search finds the best of a space that is measured exhaustively, and in how much of its time.

First every configuration takes turns with all others; then the search runs five times, each from nothing.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from litmeter.measure.log import Log
from litmeter.measure.rounds import turn_plan
from litmeter.measure.run import run as measure_all
from litmeter.measure.turn import Result, Schedule, Turn, make_ready, measure
from litmeter.params import load_params
from litmeter.stages.tune import job_of, subjects_of
from litmeter.stats.ratios import ratios
from litmeter.system.machine import exclusive_machine
from litmeter.tune.search import Job, search
from studies.harness import DEVICE, keep_runs, read_result, sender

STUDY = "tune_exhaustive"
RUNS = 5
ROUNDS = 12
"""Of the exhaustive measurement: as many as give a ratio to about a tenth."""
SHARE = 0.25
"""Of its time, at most, for a search; the starts of its 36 servers do not count, those of a search do."""
SPACE: Mapping[str, Any] = {
    "precision": ("full", "half", "int8"),
    "compiled": (True,),
    "preprocess": ("torchvision",),
    "transport": ("litserve", "direct"),
    "workers_per_device": (1, 2),
    "threads_per_worker": (1,),
    "max_batch_size": (1, 2, 4),
    "batch_timeout_s": (0.0,),
    "keep_freed_memory": (True,),
}
"""36 configurations, all of which can run on two cores."""


def searched(number: int, max_s: float) -> Job:
    """What search ``number`` works on."""
    params = load_params()
    tune = params.tune.model_copy(update={**SPACE, "max_s": max_s, "seed": number})
    load = params.load.model_copy(update={"seed": params.load.seed + number})
    params = params.model_copy(update={"tune": tune, "load": load})
    return job_of(params, DEVICE, params.bodies())


def in_turn(job: Job) -> Schedule[dict[str, Any]]:
    """Measure all configurations in turn: the ratio of each rate to the first one's, and the seconds."""
    names = [one.search_name for one in job.space.configurations]
    rates: dict[str, list[float | None]] = {name: [] for name in names}
    plan, rng = turn_plan(job.tune.users, job.load.timeout_s, job.load.seed, 0), random.Random(0)
    ready = yield from make_ready(names)
    assert set(ready.names) == set(names), "they do not fit into memory together"
    for number in range(ROUNDS):
        for name in rng.sample(names, len(names)):
            sample = yield from measure(Turn(name, replace(plan, repeat=number), number))
            rates[name].append(sample.row.rate_rps)
    found = {name: round(own.ratio, 4) for name, own in ratios(rates, names[0]).items()}
    return {"ratios": found, "rounds": ROUNDS, "seconds": round(sample.ended_s - ready.at_s)}


def measured_by(schedule: Schedule[Result], job: Job, log: Log) -> Result:
    """What a schedule found."""
    with exclusive_machine(), sender(job.load.request_body) as generator:
        subjects = subjects_of(job, generator, DEVICE)
        return measure_all(schedule, subjects, log, job.tune.max_s)


def run(measured: Mapping[str, Any], number: int) -> dict[str, Any]:
    """One search: its winner's rate over that of the best, as they were measured exhaustively."""
    job, log = searched(number, SHARE * measured["seconds"]), Log()
    outcome = measured_by(search(job), job, log)
    winner = outcome.rows[0].name
    return {
        "winner": winner,
        "winner_of_best": round(measured["ratios"][winner] / max(measured["ratios"].values()), 4),
        "rounds": outcome.rounds,
        "seconds": round(log.reached_s),
        "share_of_exhaustive": round(log.reached_s / measured["seconds"], 3),
    }


def main() -> None:
    """Measure all, then search."""
    try:
        measured = read_result(STUDY)["exhaustive"]
    except FileNotFoundError:
        job = searched(0, 600.0)
        measured = measured_by(in_turn(job), job, Log())
    keep_runs(STUDY, RUNS, partial(run, measured), exhaustive=measured)


if __name__ == "__main__":
    main()
