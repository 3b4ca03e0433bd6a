"""When a user sends its next request."""

from __future__ import annotations

import random
from time import perf_counter
from typing import Protocol

from gevent.event import Event


class Arrivals(Protocol):
    """What a user asks before each request."""

    def wait(self, stopping: Event) -> float:
        """Wait until a request is due, or the level is to end; when it is due, seconds."""


class ClosedLoop:
    """Each user at once, when its last request has been answered."""

    def wait(self, stopping: Event) -> float:
        """Now."""
        return perf_counter()


class Poisson:
    """Open loop: at a mean rate, at random, whether or not the last ones have been answered.

    Whoever is free takes the next arrival. Where nobody is, it is sent late; its latency counts from when
    it was due, so that a server cannot hide a stall by holding its users back (coordinated omission).
    """

    def __init__(self, rate_rps: float, seed: str) -> None:
        self._random = random.Random(seed)
        self._rate_rps = rate_rps
        self._next = perf_counter()

    def wait(self, stopping: Event) -> float:
        """The next arrival."""
        self._next = due = self._next + self._random.expovariate(self._rate_rps)
        wait_s = due - perf_counter()
        if wait_s > 0:
            stopping.wait(wait_s)
        return due
