"""Queues of known capacity, simulated: how long each request of a first-come, first-served queue takes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


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
    Queue("M/D/2, 5 ms, 50 ms", 2, 0.005, False, 0.05, 368.5),
    Queue("M/D/2, 5 ms, 15 ms", 2, 0.005, False, 0.015, 282.6),
    Queue("M/M/1, 5 ms, 50 ms", 1, 0.005, True, 0.05, MM1_RPS),
    Queue("M/D/1, 20 ms, 100 ms", 1, 0.02, False, 0.1, 34.7),
    Queue("M/D/2, 20 ms, 100 ms", 2, 0.02, False, 0.1, 83.5),
)
