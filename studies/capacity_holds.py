"""Whether the capacity holds on the real server: minutes above its interval, and below, after a search."""

from __future__ import annotations

from typing import Any

from litmeter.measure.capacity import MOST_USERS, capacity, probe_row
from litmeter.measure.log import Log
from litmeter.measure.run import run as loop
from litmeter.measure.turn import Schedule, Turn, measure
from litmeter.params import ObjectiveSettings, load_params
from litmeter.settings import CANDIDATE
from litmeter.system.machine import exclusive_machine
from studies.harness import (
    SERVER,
    TIMEOUT_S,
    configuration,
    keep_runs,
    known,
    load_plan,
    read_result,
    watched_server,
)

STUDY = "capacity_holds"
PAIRS, SECONDS, WARMUP_S = 10, 60.0, 2.0
ABOVE_HIGH, OF_LOW = 1.15, 0.9


def run(number: int) -> dict[str, Any]:
    """The capacity first; then the shares that miss the objective in a minute above it, and in one below."""
    objective = load_params().objective
    with exclusive_machine(), watched_server(configuration(CANDIDATE)) as (_, subjects):
        if number == 0:
            schedule = capacity([SERVER], objective, TIMEOUT_S)
            found = loop(schedule, subjects, Log(), objective.max_s)[SERVER].metrics
            columns = ("status", "capacity_rps", "low_rps", "high_rps", "probes", "seconds")
            return {column: getattr(found, column) for column in columns}
        interval = read_result(STUDY)["runs"][0]
        rates = {
            "above": ABOVE_HIGH * known(interval["high_rps"]),
            "below": OF_LOW * known(interval["low_rps"]),
        }
        return loop(minutes(rates, objective, number), subjects, Log(), len(rates) * SECONDS)


def minutes(
    rates: dict[str, float], objective: ObjectiveSettings, seed: int
) -> Schedule[dict[str, float | None]]:
    """The share of requests that miss the objective in a minute at each of the rates."""
    missed = {}
    for name, rate_rps in rates.items():
        plan = load_plan(MOST_USERS, SECONDS, seed=seed, warmup_s=WARMUP_S, rate_rps=rate_rps)
        sample = yield from measure(Turn(SERVER, plan, slo_ms=objective.slo_ms, note=f"{rate_rps:.1f}/s"))
        missed[name] = probe_row(sample, objective).missed
    return missed


def main() -> None:
    """Say in how many minutes the objective is missed above the interval, and kept below it."""
    miss = load_params().objective.miss
    _, *pairs = keep_runs(STUDY, 1 + PAIRS, run)
    above = sum(pair["above"] > miss for pair in pairs)
    below = sum(pair["below"] <= miss for pair in pairs)
    print(f"{ABOVE_HIGH} of the high end misses in {above} of {PAIRS} minutes")
    print(f"{OF_LOW} of the low end holds in {below} of {PAIRS} minutes")


if __name__ == "__main__":
    main()
