"""Arrival processes: the times at which requests are due, in a closed or an open loop."""

from __future__ import annotations

import itertools
import random
from abc import ABC, abstractmethod
from collections.abc import Iterator
from time import perf_counter

import gevent
from gevent.event import Event


class Arrivals(ABC):
    """An arrival process, shared by all users of a level.

    Attributes:
        ended: whether the level has ended, so that no more requests are sent.
    """

    ended = False

    @abstractmethod
    def wait(self) -> float | None:
        """Wait until the user's next request is due; return when it was, None once the level has ended."""


class ClosedLoop(Arrivals):
    """Closed loop: a user's next request is due as soon as its last one has been answered."""

    def wait(self) -> float | None:
        """Return the present time at once."""
        return None if self.ended else perf_counter()


class OpenLoop(Arrivals):
    """Open loop: requests are due at given times, independent of the answers.

    While every user is busy, requests are sent late. Their latency counts from the due time, so that a
    stalled server cannot hide the stall by delaying its users (coordinated omission).

    One idle user waits for the next arrival; the others are parked on a stack, and the one parked last
    is woken first. So no more connections are in use than the rate needs, and idle users cost nothing.

    Args:
        due_s: seconds from now at which requests are due, ascending.
    """

    def __init__(self, due_s: Iterator[float]) -> None:
        self._due_s = due_s
        self._started = perf_counter()
        self._user_waits = False
        self._parked: list[Event] = []

    def wait(self) -> float | None:
        """Wait until the next arrival."""
        if self._user_waits:
            self._parked.append(woken := Event())
            woken.wait()
        self._user_waits = True
        due_s = next(self._due_s, None)
        if due_s is not None:
            wait_s = self._started + due_s - perf_counter()
            if wait_s > 0:
                gevent.sleep(wait_s)
        if self._parked:
            self._parked.pop().set()
        else:
            self._user_waits = False
        return None if self.ended or due_s is None else self._started + due_s


def poisson_times(rate_rps: float, seed: str) -> Iterator[float]:
    """Due times of a Poisson process: the gaps are exponential."""
    rng = random.Random(seed)
    return itertools.accumulate(iter(lambda: rng.expovariate(rate_rps), None))


def constant_times(rate_rps: float, phase: float = 0.0) -> Iterator[float]:
    """Due times at equal distances; the first one after ``phase`` of the distance."""
    return ((number + phase) / rate_rps for number in itertools.count())
