"""Other processes that use this machine's CPU, as far as they are visible."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from time import perf_counter

import psutil

from litmeter.system.processes import MARK

EVERY_S = 5.0
"""Minimum seconds between readings at begins of turns: a reading takes 5 to 8 ms of CPU time."""
LEAST_CORES = 0.05
"""Minimum usage of a process that is named."""
SPECIAL = re.compile(r"[^\w .:/+-]")
"""Characters that a page or a table could take for markup."""


class Neighbours:
    """Reads the CPU times of all processes from time to time."""

    def __init__(self) -> None:
        self._read_at = -EVERY_S
        self._before: Mapping[psutil.Process, float] = {}

    def begin(self) -> None:
        """Read, unless the last reading is less than EVERY_S old."""
        if perf_counter() - self._read_at >= EVERY_S:
            self._read_at, self._before = perf_counter(), _cpu_s()

    def busiest(self) -> dict[str, float]:
        """Mean cores since the last reading of busy other processes, by name.

        Processes that this process has started are left out. All time of newer processes counts.
        """
        before, seconds = self._before, perf_counter() - self._read_at
        self._read_at, self._before = perf_counter(), _cpu_s()
        used = {one: cpu_s - before.get(one, 0.0) for one, cpu_s in self._before.items()}
        busy = [one for one in used if used[one] >= LEAST_CORES * seconds]
        cores: dict[str, float] = defaultdict(float)
        ours = {psutil.Process().pid, *(one.pid for one in psutil.Process().children(recursive=True))}
        for one in busy:
            with suppress(psutil.Error):
                if one.pid not in ours and not _is_marked(one, ours):
                    cores[SPECIAL.sub("_", one.name())] += used[one] / seconds
        return cores


def _cpu_s() -> dict[psutil.Process, float]:
    times = ((one, one.info["cpu_times"]) for one in psutil.process_iter(["cpu_times"]))
    return {one: sum(cpu[:2]) for one, cpu in times if cpu is not None}


def _is_marked(process: psutil.Process, leaders: set[int]) -> bool:
    """Whether one of ``leaders`` has started the process, even if it is no longer a descendant."""
    try:
        mark = process.environ().get(MARK, "")
    except psutil.Error:  # another user's
        return False
    return mark.isdecimal() and int(mark) in leaders
