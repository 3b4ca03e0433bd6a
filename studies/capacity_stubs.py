"""How well the capacity of live servers of known service times is found: ten searches of each.

The searches of a run take turns.
"""

from __future__ import annotations

import math
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from litmeter.load import load_generator
from litmeter.load.stub import BODY, running_stub
from litmeter.measure.capacity import CapacityResult, in_turn, search
from litmeter.measure.log import Log
from litmeter.measure.run import run as measure
from litmeter.measure.subjects import Subject, Url
from litmeter.measure.turn import Schedule, Serve
from litmeter.params import load_params
from litmeter.system.machine import exclusive_machine
from studies.harness import TIMEOUT_S, keep_runs

RUNS = 10
MAX_S = 240.0


@dataclass(frozen=True)
class Queue:
    """A stub whose slots serve one request each, and the rate at which 5% take longer than the objective.

    Random service times are exponential; else all are the same.
    """

    slots: int
    service_s: float
    random: bool
    objective_s: float
    capacity_rps: float


QUEUES = {
    "M/D/1, 10 ms, 50 ms": Queue(1, 0.01, False, 0.05, 69.4),
    "M/D/2, 10 ms, 50 ms": Queue(2, 0.01, False, 0.05, 167.0),
    "M/M/1, 5 ms, 50 ms": Queue(1, 0.005, True, 0.05, 200 - math.log(20) / 0.05),
}
"""The first two are from long simulations; the time in an M/M/1 queue is exponential, of rate mu - lambda."""


def run(number: int) -> dict[str, Any]:
    """One search for each queue, with arrivals of its own."""
    objective = load_params().objective.model_copy(update={"max_s": MAX_S, "seed": number})
    subjects: dict[str, Subject] = {}
    searches: dict[str, Schedule[CapacityResult]] = {}
    with exclusive_machine(), ExitStack() as stack:
        sender = stack.enter_context(load_generator([BODY], "application/json"))
        for name, queue in QUEUES.items():
            stub = stack.enter_context(running_stub(queue.service_s, queue.slots, random=queue.random))
            subjects[name] = Url(stub.url, sender)
            own = objective.model_copy(update={"slo_ms": 1000 * queue.objective_s})
            searches[name] = search(name, own, TIMEOUT_S)
        found = measure(all_of(searches), subjects, Log(), MAX_S * len(QUEUES))
    return {name: summary(found[name], queue.capacity_rps) for name, queue in QUEUES.items()}


def all_of(searches: dict[str, Schedule[CapacityResult]]) -> Schedule[dict[str, CapacityResult]]:
    """Run searches with objectives of their own side by side."""
    yield Serve(tuple(searches))
    return (yield from in_turn(searches))


def summary(result: CapacityResult, truth_rps: float) -> dict[str, Any]:
    """What a search has found, and how far it is from the truth."""
    found, columns = result.metrics, ("status", "capacity_rps", "low_rps", "high_rps", "seconds")
    return {column: getattr(found, column) for column in columns} | {
        "off": None if found.capacity_rps is None else round(found.capacity_rps / truth_rps - 1, 4),
        "void": sum(bool(row.void and row.offered_rps) for row in result.rows),
    }


if __name__ == "__main__":
    keep_runs("capacity_stubs", RUNS, run)
