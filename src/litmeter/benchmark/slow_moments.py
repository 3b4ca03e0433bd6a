"""Moments in which the same work takes more of a core's time, whatever waits for the core.

The CPU time of always the same work does not grow while it waits for a core. Where it grows, the core is
called slow; a virtual core may share a physical one with other machines.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import cycle
from threading import Event, Thread
from time import perf_counter, thread_time

import numpy as np
import numpy.typing as npt

EVERY_S = 0.005
STEPS = 1500
"""Of the work: some forty microseconds."""
MOMENT_S = 0.5
STOPPED = 100.0
"""How slow a moment counts as in which no work was done."""

Floats = npt.NDArray[np.float64]


@dataclass
class CoreSpeeds:
    """Does the same work every EVERY_S on one core after the other, in a thread, until the block is left."""

    _samples: list[tuple[float, int, float]] = field(default_factory=list)
    _ended: Event = field(default_factory=Event)

    def __enter__(self) -> CoreSpeeds:
        self._thread = Thread(target=self._measure)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _measure(self) -> None:
        movable = hasattr(os, "sched_setaffinity")
        cores = cycle(os.sched_getaffinity(0) if movable else (0,))
        while not self._ended.wait(EVERY_S):
            core = next(cores)
            if movable:
                with suppress(OSError):  # the core is no longer this process's
                    os.sched_setaffinity(0, {core})  # of this thread alone
            began = thread_time()
            sum(range(STEPS))
            self._samples.append((perf_counter(), core, thread_time() - began))

    def slowness(self, begin: float, end: float) -> Floats:
        """The work's CPU time in each moment over its median, the mean of all cores; STOPPED: none was done.

        What is slow for more than half of the time is the median itself, and not seen here.

        Args:
            begin, end: on the clock of ``perf_counter``; a rest of less than half a moment does not count.
        """
        samples = [sample for sample in self._samples if begin <= sample[0] < end]
        moments = round((end - begin) / MOMENT_S)
        if not samples:
            return np.full(moments, STOPPED)
        at, core, cpu_s = np.array(samples).T
        for own in np.unique(core):
            cpu_s[core == own] /= np.median(cpu_s[core == own])
        moment = ((at - begin) / MOMENT_S).astype(int)
        means = {number: cpu_s[moment == number].mean() for number in range(moments) if number in moment}
        middle = np.median(list(means.values()))
        return np.array([means[number] / middle if number in means else STOPPED for number in range(moments)])
