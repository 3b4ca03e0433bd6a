"""How well the capacity of live servers of known service times is found: ten searches of each.

Searches run side by side, as stubs wait instead of working: one with its load takes a twentieth of a core. A
study that was stopped goes on with the next searches, on the same machine; delete its result to begin anew.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import product
from typing import Any

from litmeter.benchmark.capacity import measure_capacity
from litmeter.benchmark.capacity_rows import CapacityMetrics
from litmeter.loadgen import load_generator
from litmeter.loadgen.stub import BODY, running_stub
from litmeter.params import load_params
from litmeter.system.machine_lock import exclusive_machine
from studies.harness import read_runs, write_result
from studies.queues import MM1_RPS, Queue

RESULT = "capacity_stubs"
RUNS = 10
AT_ONCE = 4
"""Searches of each server side by side."""
MAX_S = 300.0
TIMEOUT_S = 30.0
WITHIN, TARGET_RUNS = 0.07, 9
QUEUES = (
    Queue("M/D/1, 10 ms, 50 ms", 1, 0.01, False, 0.05, 69.4),
    Queue("M/D/2, 10 ms, 50 ms", 2, 0.01, False, 0.05, 167.0),
    Queue("M/M/1, 5 ms, 50 ms", 1, 0.005, True, 0.05, MM1_RPS),
)
"""The first two are those of studies.queues with all times halved, which doubles the rates."""


def main() -> None:
    """Search, print each outcome and keep them all."""
    runs = read_runs(RESULT)
    for first in range(len(runs) // len(QUEUES), RUNS, AT_ONCE):
        numbers = range(first, min(first + AT_ONCE, RUNS))
        with exclusive_machine(), ThreadPoolExecutor(AT_ONCE * len(QUEUES)) as pool:
            found = list(pool.map(lambda one: search(*one), product(numbers, QUEUES)))
        for run in found:
            print(run, flush=True)
        runs += found
        write_result(RESULT, {"within": WITHIN, "target_runs": TARGET_RUNS, "runs": runs})


def search(number: int, queue: Queue) -> dict[str, Any]:
    """One search for the capacity of a stub, with arrivals of its own."""
    settings = load_params().objective.model_copy(
        update={"slo_ms": 1000 * queue.objective_s, "max_s": MAX_S, "seed": number}
    )
    with (
        running_stub(queue.service_s, queue.slots, random=queue.random) as stub,
        load_generator([BODY], "application/json") as generator,
    ):
        return outcome(queue, measure_capacity(generator, stub.url, settings, TIMEOUT_S, queue.name).metrics)


def outcome(queue: Queue, metrics: CapacityMetrics) -> dict[str, Any]:
    """What a search has found, and how far it is from the truth."""
    found = metrics.capacity_rps
    return {
        "queue": queue.name,
        "status": metrics.status,
        "capacity_rps": found,
        "low_rps": metrics.low_rps,
        "high_rps": metrics.high_rps,
        "off": None if found is None else round(found / queue.capacity_rps - 1, 4),
        "void": metrics.void,
        "seconds": metrics.seconds,
    }


if __name__ == "__main__":
    main()
