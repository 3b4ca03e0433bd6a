"""Whether a capacity holds on live servers: ``python -m studies.capacity_live slowed`` or ``holds``.

``slowed`` searches the capacity of a stub that becomes 1.4 times as slow every other 20 seconds, ten times.
``holds`` searches the candidate's, and loads it for ten minutes above the interval and ten below.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from litmeter.load import load_generator
from litmeter.load.stub import BODY, Stub, running_stub
from litmeter.measure.capacity import MOST_USERS, CapacityResult, capacity, probe_row
from litmeter.measure.log import Log
from litmeter.measure.run import run
from litmeter.measure.subjects import Target
from litmeter.measure.turn import Schedule, Turn, measure
from litmeter.params import load_params
from litmeter.settings import CANDIDATE
from litmeter.stats.records import Floats
from litmeter.system.machine import exclusive_machine
from studies.capacity_simulated import LONG_CHANGES, long_arrivals, long_run_rps
from studies.harness import (
    SERVER,
    TIMEOUT_S,
    configuration,
    keep_runs,
    known,
    load_plan,
    read_result,
    start,
    watched_server,
)

RUNS, MAX_S = 10, 120.0
SLOTS, SERVICE_S, OBJECTIVE_S, SLOW_EVERY_S = 2, 0.01, 0.05, 20.0
SECONDS, WARMUP_S = 60.0, 2.0
ABOVE_HIGH, OF_LOW = 1.15, 0.9


def columns(found: CapacityResult) -> dict[str, Any]:
    """What a study keeps of a search."""
    names = ("status", "capacity_rps", "low_rps", "high_rps", "probes", "seconds")
    return {name: getattr(found.metrics, name) for name in names}


def slowed() -> None:
    """Search RUNS times, and say how many intervals hold the stub's capacity in the long run."""

    def search(seed: int) -> dict[str, Any]:
        changes = {"slo_ms": 1000 * OBJECTIVE_S, "max_s": MAX_S, "seed": seed}
        objective = load_params().objective.model_copy(update=changes)
        with (
            exclusive_machine(),
            load_generator([BODY], "application/json") as sender,
            running_stub(SERVICE_S, SLOTS, slow_every_s=SLOW_EVERY_S) as stub,
        ):
            subjects = {SERVER: Target(stub.url, sender)}
            return columns(run(capacity([SERVER], objective, TIMEOUT_S), subjects, Log(), MAX_S)[SERVER])

    def took_s(due: Floats) -> Floats:
        stub = Stub(SERVICE_S, SLOTS, 200, in_step=False, slow_every_s=SLOW_EVERY_S, random=False)
        return np.array([stub.finish_time(time) - time for time in due.tolist()])

    arrivals = partial(long_arrivals, LONG_CHANGES * SLOW_EVERY_S)
    truth_rps = long_run_rps(took_s, arrivals, OBJECTIVE_S, SLOTS / SERVICE_S)
    runs = keep_runs("capacity_slowed", RUNS, search, truth_rps=round(truth_rps, 2))
    held = sum((one["low_rps"] or 0.0) <= truth_rps <= (one["high_rps"] or 0.0) for one in runs)
    print(f"{held} of {len(runs)} intervals hold {truth_rps:.1f}/s")


def holds() -> None:
    """Say in how many minutes the objective is missed above the interval, and kept below it."""
    objective = load_params().objective

    def minutes(rates: dict[str, float], seed: int) -> Schedule[dict[str, float | None]]:
        missed = {}
        for name, rate_rps in rates.items():
            plan = load_plan(MOST_USERS, SECONDS, seed=seed, warmup_s=WARMUP_S, rate_rps=rate_rps)
            sample = yield from measure(Turn(SERVER, plan, limits=objective.limits, note=f"{rate_rps:.1f}/s"))
            missed[name] = probe_row(sample, objective).missed
        return missed

    def search_or_load(number: int) -> dict[str, Any]:
        with exclusive_machine(), watched_server(configuration(CANDIDATE)) as (_, subjects):
            if number == 0:
                schedule = capacity([SERVER], objective, TIMEOUT_S)
                return columns(run(schedule, subjects, Log(), objective.max_s)[SERVER])
            found = read_result("capacity_holds")["runs"][0]
            above, below = ABOVE_HIGH * known(found["high_rps"]), OF_LOW * known(found["low_rps"])
            return run(minutes({"above": above, "below": below}, number), subjects, Log(), 2 * SECONDS)

    _, *pairs = keep_runs("capacity_holds", 1 + RUNS, search_or_load)
    above = sum(pair["above"] > objective.miss for pair in pairs)
    below = sum(pair["below"] <= objective.miss for pair in pairs)
    print(f"{ABOVE_HIGH} of the high end misses in {above} of {RUNS} minutes")
    print(f"{OF_LOW} of the low end holds in {below} of {RUNS} minutes")


if __name__ == "__main__":
    start(__doc__, slowed, holds)
