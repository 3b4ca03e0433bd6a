"""Queues of known capacity, first come, first served, and searches for it in simulation."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from litmeter.stats.capacity import BLOCKS, CapacitySearch, Probe

Floats = npt.NDArray[np.float64]

MISS, TOLERANCE, REQUESTS = 0.05, 0.04, 1000
PEAK_NOISE = 0.01
"""Standard deviation of a measured peak, as a share of it."""
MOST_PROBES = 60
WITHIN = 0.05


@dataclass(frozen=True)
class Queue:
    """A server with ``slots``, each of which serves one request at a time.

    Attributes:
        service_s: mean time of service.
        random: service times are exponential, with a single slot; else constant.
        objective_s: of a request's time in the system.
        capacity_rps: the rate at which 5% of the requests take longer, by theory or by long simulation.
    """

    name: str
    slots: int
    service_s: float
    random: bool
    objective_s: float
    capacity_rps: float

    @property
    def peak_rps(self) -> float:
        """The rate that it serves when it is never idle."""
        return self.slots / self.service_s

    def times(self, rng: np.random.Generator, rate_rps: float, requests: int) -> Floats:
        """Times in the system of requests that arrive at random, seconds."""
        arrived = np.cumsum(rng.exponential(1 / rate_rps, requests))
        if self.random:
            return _lindley(arrived, rng.exponential(self.service_s, requests))
        times = np.empty(requests)
        for slot in range(self.slots):  # constant service: the slots take turns
            own = arrived[slot :: self.slots]
            times[slot :: self.slots] = _lindley(own, np.full(len(own), self.service_s))
        return times


def _lindley(arrived: Floats, service_s: Floats) -> Floats:
    """Times in a queue with one slot: each request waits until the one before it has left (Lindley)."""
    served = np.cumsum(service_s)
    return served + np.maximum.accumulate(arrived - (served - service_s)) - arrived


MM1_RPS = 200 - math.log(20) / 0.05
"""An M/M/1 queue's time in the system is exponential with rate mu - lambda."""
QUEUES = (
    Queue("M/D/2, 5 ms, 15 ms", 2, 0.005, False, 0.015, 282.6),
    Queue("M/M/1, 5 ms, 50 ms", 1, 0.005, True, 0.05, MM1_RPS),
    Queue("M/D/1, 20 ms, 100 ms", 1, 0.02, False, 0.1, 34.7),
)


def search(queue: Queue, seed: int) -> CapacitySearch:
    """A search on a simulated queue, whose peak is measured before and after each probe."""
    rng = np.random.default_rng(seed)
    found = CapacitySearch(MISS, TOLERANCE)
    before_rps = queue.peak_rps * rng.normal(1, PEAK_NOISE)
    while not (found.resolved or found.above_range) and len(found.probes) < MOST_PROBES:
        rate_rps = found.next_load() * before_rps
        warm_up = max(int(rate_rps), 50)
        times = queue.times(rng, rate_rps, REQUESTS + warm_up)[warm_up:]
        missed = tuple(float(block.mean()) for block in np.array_split(times > queue.objective_s, BLOCKS))
        after_rps = queue.peak_rps * rng.normal(1, PEAK_NOISE)
        found.probes.append(Probe(rate_rps, math.sqrt(before_rps * after_rps), missed, REQUESTS))
        before_rps = after_rps
    return found


def summary(queue: Queue, searches: list[CapacitySearch]) -> dict[str, float]:
    """How far the found capacities lie from the truth, and how often their intervals hold it."""
    truth = math.log(queue.capacity_rps / queue.peak_rps)
    curves = [curve for one in searches if (curve := one.curve()) is not None]
    errors = np.array([curve.load - truth for curve in curves])
    held = [curve.interval[0] <= truth <= curve.interval[1] for curve in curves]
    return {
        "within": round(float(np.mean(np.abs(np.expm1(errors)) <= WITHIN)), 3),
        "bias": round(float(np.mean(np.expm1(errors))), 4),
        "held": round(float(np.mean(held)), 3),
    }
