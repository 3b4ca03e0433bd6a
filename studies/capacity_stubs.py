"""How well the capacity of live servers of known service times is found: ten searches of each.

The searches of a run go side by side, as stubs wait instead of working.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from litmeter.load import load_generator
from litmeter.load.stub import BODY, running_stub
from litmeter.measure.capacity import measure_capacity
from litmeter.params import load_params
from litmeter.system.machine import exclusive_machine
from studies.harness import TIMEOUT_S, keep_runs

RUNS = 10
MAX_S = 300.0


@dataclass(frozen=True)
class Queue:
    """A stub whose slots serve one request each.

    Attributes:
        service_s: mean time of service.
        random: service times are exponential; else all are the same.
        capacity_rps: the rate at which 5% of the requests take longer than the objective.
    """

    name: str
    slots: int
    service_s: float
    random: bool
    objective_s: float
    capacity_rps: float


QUEUES = (
    Queue("M/D/1, 10 ms, 50 ms", 1, 0.01, False, 0.05, 69.4),
    Queue("M/D/2, 10 ms, 50 ms", 2, 0.01, False, 0.05, 167.0),
    Queue("M/M/1, 5 ms, 50 ms", 1, 0.005, True, 0.05, 200 - math.log(20) / 0.05),
)
"""The first two are from long simulations; the time in an M/M/1 queue is exponential, of rate mu - lambda."""


def run(number: int) -> dict[str, Any]:
    """One search for each queue, with arrivals of its own."""
    with exclusive_machine(), ThreadPoolExecutor(len(QUEUES)) as pool:
        found = list(pool.map(partial(search, number), QUEUES))
    return {queue.name: own for queue, own in zip(QUEUES, found, strict=True)}


def search(number: int, queue: Queue) -> dict[str, Any]:
    """What a search has found, and how far it is from the truth."""
    settings = load_params().objective.model_copy(
        update={"slo_ms": 1000 * queue.objective_s, "max_s": MAX_S, "seed": number}
    )
    with (
        running_stub(queue.service_s, queue.slots, random=queue.random) as stub,
        load_generator([BODY], "application/json") as generator,
    ):
        found = measure_capacity(generator, stub.url, settings, TIMEOUT_S, queue.name).metrics
    return {
        "status": found.status,
        "capacity_rps": found.capacity_rps,
        "low_rps": found.low_rps,
        "high_rps": found.high_rps,
        "off": None if found.capacity_rps is None else round(found.capacity_rps / queue.capacity_rps - 1, 4),
        "void": found.void,
        "seconds": found.seconds,
    }


if __name__ == "__main__":
    keep_runs("capacity_stubs", RUNS, run)
