"""Whether the search finds the best of a space that is measured exhaustively, and in how much of its time.

First every configuration takes turns with all others; then the search runs five times, each from nothing.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from functools import partial
from time import monotonic
from typing import Any

from litmeter.load import load_generator
from litmeter.measure.comparison import TURN_S, paused_servers
from litmeter.model.reference import read_reference
from litmeter.params import ServeSettings, load_params
from litmeter.paths import MODEL
from litmeter.serve.client import CONTENT_TYPES
from litmeter.stats.comparison import ratios
from litmeter.system.machine import exclusive_machine
from litmeter.system.temporary import scratch
from litmeter.tune.record import Record
from litmeter.tune.search import Job, search
from litmeter.tune.space import machine_of, name_of, space_of
from studies.harness import DEVICE, all_bodies, keep_runs, photo_paths, read_result

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


def exhaustive() -> dict[str, Any]:
    """The ratio of every configuration's rate to the first one's, all measured in turn, and the seconds."""
    params = load_params()
    tune = params.tune.model_copy(update=dict(SPACE))
    space = space_of(tune, params.serve, machine_of(DEVICE, photo_paths()))
    configurations: dict[str, ServeSettings] = {name_of(one): one for one in space.configurations}
    reference, load = next(iter(configurations)), params.load
    rates: dict[str, list[float | None]] = {name: [] for name in configurations}
    rng = random.Random(0)
    with (
        exclusive_machine(),
        paused_servers(list(configurations), configurations, MODEL, DEVICE, load.timeout_s) as servers,
        load_generator(all_bodies(load.request_body), CONTENT_TYPES[load.request_body]) as generator,
    ):
        assert len(servers) == len(configurations), "they do not fit into memory together"
        started = monotonic()
        for number in range(ROUNDS):
            for server in rng.sample(servers, len(servers)):
                turn = server.take_turn(generator, load, number, tune.users, TURN_S)
                rates[turn.name].append(turn.rate_rps)
        seconds = monotonic() - started
    found = {name: round(own.ratio, 4) for name, own in ratios(rates, reference).items()}
    return {"ratios": found, "rounds": ROUNDS, "seconds": round(seconds)}


def run(measured: Mapping[str, Any], number: int) -> dict[str, Any]:
    """One search: its winner's rate over that of the best, as they were measured exhaustively."""
    params = load_params()
    load = params.load.model_copy(update={"seed": params.load.seed + number})
    job = Job(
        params.tune.model_copy(update={**SPACE, "max_s": SHARE * measured["seconds"], "seed": number}),
        params.serve,
        load,
        params.objective.model_copy(update={"max_s": 1.0}),
        MODEL,
        photo_paths(),
        all_bodies(load.request_body),
        read_reference(MODEL.exported),
        machine_of(DEVICE, photo_paths()),
    )
    with scratch() as folder, exclusive_machine():
        started = monotonic()
        outcome = search(job, Record(folder / "record.jsonl", "study"))
        seconds = monotonic() - started
    winner = outcome.rows[0].name
    return {
        "winner": winner,
        "winner_of_best": round(measured["ratios"][winner] / max(measured["ratios"].values()), 4),
        "rounds": outcome.rounds,
        "model_error": round(outcome.model_error, 3),
        "seconds": round(seconds),
        "share_of_exhaustive": round(seconds / measured["seconds"], 3),
    }


def main() -> None:
    """Measure all, then search."""
    try:
        measured = read_result(STUDY)["exhaustive"]
    except FileNotFoundError:
        measured = exhaustive()
    keep_runs(STUDY, RUNS, partial(run, measured), exhaustive=measured)


if __name__ == "__main__":
    main()
