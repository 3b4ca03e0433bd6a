"""When a user sends its next request."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from time import perf_counter

import gevent
from gevent.event import Event


class Arrivals(ABC):
    """What a user asks before each request.

    Attributes:
        ended: no more shall be sent.
    """

    ended = False

    @abstractmethod
    def wait(self) -> float | None:
        """Wait until a request is due; when it was, seconds, or None where no more shall be sent."""


class ClosedLoop(Arrivals):
    """Each user at once, when its last request has been answered."""

    def wait(self) -> float | None:
        """Now."""
        return None if self.ended else perf_counter()


class Poisson(Arrivals):
    """Open loop: at a mean rate, at random, whether or not the last ones have been answered.

    Where every user is busy, an arrival is sent late; its latency counts from when it was due, so that a
    server cannot hide a stall by holding its users back (coordinated omission).

    One user waits for the next arrival; the others rest, and who has come to rest last goes first. So no
    more connections are in use than the rate needs, and their number costs nothing.
    """

    def __init__(self, rate_rps: float, seed: str) -> None:
        self._random = random.Random(seed)
        self._rate_rps = rate_rps
        self._next = perf_counter()
        self._one_waits = False
        self._resting: list[Event] = []

    def wait(self) -> float | None:
        """The next arrival."""
        if self._one_waits:
            self._resting.append(turn := Event())
            turn.wait()
        self._one_waits = True
        self._next = due = self._next + self._random.expovariate(self._rate_rps)
        wait_s = due - perf_counter()
        if wait_s > 0:
            gevent.sleep(wait_s)
        if self._resting:
            self._resting.pop().set()
        else:
            self._one_waits = False
        return None if self.ended else due
