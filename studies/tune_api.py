"""Whether a search for a LitAPI finds settings as fast as the best of twelve that are measured in turn.

``python -m studies.tune_api [FOLDER module:Class BODIES]``, else for the LitAPI of examples/text. First the
twelve take turns. Then the search runs, each time from nothing and in its own space, and at last its winner
takes turns with the best of the twelve: their ratio is of other rounds than those by which either was chosen.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from litmeter.kinds.configuration import Configuration, Host
from litmeter.kinds.lit_api import LitApi, LitApiTuneSettings
from litmeter.load import load_generator
from litmeter.measure.checks import check_all, refuse_faulty
from litmeter.measure.log import Log
from litmeter.measure.rounds import head_to_head
from litmeter.measure.run import run as measure_all
from litmeter.measure.subjects import Served
from litmeter.params import Params, load_params
from litmeter.stages.tune import job_of, subjects_of
from litmeter.stats.ratios import ratios
from litmeter.system.machine import exclusive_machine
from litmeter.tune.search import search
from litmeter.tune.space import space_of
from studies.harness import DEVICE, TIMEOUT_S, keep_runs, rates, read_result

EXAMPLE = ("examples/text", "server:TextAPI", "examples/text/bodies.jsonl")
RUNS = 3
SWEEP_S, FINAL_S = 240.0, 90.0
SWEPT = LitApiTuneSettings(
    workers_per_device=(1, 2),
    threads_per_worker=(1, 2),
    max_batch_size=(1, 8),
    batch_timeout_s=(0.0, 0.002, 0.01),
)
"""Twelve settings on two cores."""


def params_of(own: Sequence[str], seed: int = 0) -> Params:
    """A project that serves the LitAPI ``own``: folder, module:Class, bodies."""
    params, (folder, api, bodies) = load_params(), own
    load = params.load.model_copy(update={"bodies": bodies, "timeout_s": TIMEOUT_S, "seed": seed})
    changed = {
        "serve": LitApi(api=api, folder=str(Path(folder).absolute())),
        "tune": LitApiTuneSettings(seed=seed),
        "load": load,
        "objective": params.objective.model_copy(update={"max_s": 1.0}),
    }
    return params.model_copy(update=changed)


def in_turn(params: Params, settings: Sequence[Configuration], seconds: float) -> dict[str, Any]:
    """The ratio of each rate to the first one's, with its 95% interval, and the number of rounds."""
    log, names = Log(), [one.search_name for one in settings]
    with exclusive_machine(), load_generator(*params.bodies()) as generator:
        subjects = {
            name: Served(name, one, generator, DEVICE, TIMEOUT_S)
            for name, one in zip(names, settings, strict=True)
        }
        schedule = head_to_head(names, params.tune.users, seconds, params.tune.seed, TIMEOUT_S)
        measure_all(schedule, subjects, log, seconds)
    by_name = {name: rates([row for row in log.rows if row.subject == name]) for name in names}
    found = {
        name: [figure and round(figure, 4) for figure in (own.ratio, own.low, own.high)]
        for name, own in ratios(by_name, names[0]).items()
    }
    return {"ratios": found, "rounds": len(by_name[names[0]])}


def twelve(params: Params) -> dict[str, Configuration]:
    """The settings of the sweep by name."""
    return {one.search_name: one for one in space_of(SWEPT, params.serve, Host(DEVICE, 2)).configurations}


def run(own: Sequence[str], sweep: Mapping[str, Any], number: int) -> dict[str, Any]:
    """One search, and its winner beside the best of the sweep."""
    params, log = params_of(own, number), Log()
    bodies = params.bodies()
    with exclusive_machine(), load_generator(*bodies) as generator:
        job = job_of(params, DEVICE, bodies)
        subjects = subjects_of(job, generator, DEVICE)
        outcome = measure_all(search(job), subjects, log, job.tune.max_s)
    best = max(sweep["ratios"], key=lambda name: sweep["ratios"][name][0])
    found: dict[str, Any] = {
        "winner": outcome.winner.search_name,
        "best": best,
        "combinations": outcome.combinations,
        "rounds": outcome.rounds,
        "seconds": round(log.reached_s),
    }
    if found["winner"] != best:
        final = in_turn(params, [twelve(params)[best], outcome.winner], FINAL_S)
        found["winner_of_best"] = final["ratios"][found["winner"]]
    return found


def main(arguments: Sequence[str]) -> None:
    """Measure the twelve, then search."""
    own = arguments or EXAMPLE
    study = f"tune_api_{own[1].partition(':')[2].lower()}"
    try:
        sweep = read_result(study)["sweep"]
    except FileNotFoundError:
        params = params_of(own)
        refuse_faulty(check_all(twelve(params), params.bodies(), DEVICE, TIMEOUT_S))
        sweep = in_turn(params, list(twelve(params).values()), SWEEP_S)
        print(f"sweep: {sweep}", flush=True)
    keep_runs(study, RUNS, partial(run, own, sweep), sweep=sweep)


if __name__ == "__main__":
    main(sys.argv[1:])
