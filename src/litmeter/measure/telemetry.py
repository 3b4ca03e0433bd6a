"""CPU and GPU usage of a turn, read as it begins, as it goes on and as it ends. Unknown is None, never 0.

A reading that fails leaves a gap in its own values: the others go on, and it is said once.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any, TypeVar

import psutil

from litmeter.measure.neighbours import Neighbours
from litmeter.system.machine import cuda_gpu
from litmeter.system.memory import CGROUP
from litmeter.system.processes import tree
from litmeter.system.progress import print_wrapped

Value = TypeVar("Value")
OTHER_LOAD_PERCENT = 10.0
"""CPU of the machine, used by other processes or by the hypervisor, above which there is a warning."""


@dataclass(frozen=True)
class Usage:
    """Resource usage from a turn's begin to its end; percentages are of all cores of the machine.

    Attributes:
        server_s, client_s: CPU seconds of either's process tree.
        process_s: CPU seconds of each process of the server, by process id.
        other_percent: by processes other than server, client and this one; not known where the server's are
            not.
        others: mean number of cores of those of these processes that are busy, by name; empty where
            ``other_percent`` is no reason for a warning, and where none is visible.
        steal_percent: what the hypervisor gave to other machines.
        throttled_s: how long the cgroup's CPU quota stopped its processes.
        cores: available to this process, at the begin and at the end.
        mhz, best_mhz: mean frequency of the cores, in the turn and the highest so far.
        gpu_percent, gpu_memory_mib, gpu_power_w: of the first CUDA device: mean, highest, mean reading.
    """

    seconds: float = 0.0
    cpu_percent: float | None = None
    server_s: float | None = None
    client_s: float | None = None
    process_s: Mapping[int, float] = field(default_factory=dict)
    other_percent: float | None = None
    others: Mapping[str, float] = field(default_factory=dict)
    steal_percent: float | None = None
    throttled_s: float | None = None
    cores: tuple[float, float] | None = None
    mhz: float | None = None
    best_mhz: float | None = None
    gpu_percent: float | None = None
    gpu_memory_mib: float | None = None
    gpu_power_w: float | None = None


_Counter = Mapping[int | str, float]
"""What grows by process id or name: CPU seconds since the start of a process, or of the machine."""


class Telemetry:
    """Reads the usage of one turn after another."""

    def __init__(self) -> None:
        self._best_mhz = 0.0
        self._failed: set[str] = set()
        self._neighbours = Neighbours()

    def begin(self, server_pid: int | None, client_pid: int | None) -> None:
        """Begin a turn, with the pids of ``Subject``."""
        self._server, self._client = server_pid, client_pid
        self._mhz: list[float] = []
        self._gpu: list[Any] = []
        self._read("other processes", self._neighbours.begin)
        self._began, self._cores, self._before = self._counters()

    def tick(self) -> None:
        """Read what has a value of the moment: frequencies, and the GPU."""
        mhz = self._read("the CPU's frequency", _mhz)
        if mhz is not None:
            self._mhz.append(mhz)
            self._best_mhz = max(self._best_mhz, mhz)
        if (gpu := self._read("the GPU", cuda_gpu)) is not None:
            self._gpu.append(gpu)

    def end(self) -> Usage:
        """Usage since ``begin``."""
        ended, cores, after = self._counters()
        machine, *grown = map(_grown, self._before, after)
        throttled_s, own_s, server_s, client_s = (None if one is None else sum(one.values()) for one in grown)
        percents: dict[int | str, float] = {}
        if machine is not None and machine["all"]:
            percents = {name: 100 * used_s / machine["all"] for name, used_s in machine.items()}
            ours = (own_s, server_s, 0.0 if self._client is None else client_s)
            known = [used for used in ours if used is not None]
            if len(known) == len(ours):
                percents["other"] = 100 * max(0.0, machine["busy"] - sum(known)) / machine["all"]
        busy = percents.get("other", 0.0) > OTHER_LOAD_PERCENT
        others = self._read("other processes", self._neighbours.busiest) if busy else None
        memory = (gpu.memory_used for gpu in self._gpu if gpu.memory_used is not None)
        return Usage(
            seconds=ended - self._began,
            cpu_percent=percents.get("busy"),
            server_s=server_s,
            client_s=client_s,
            process_s={int(pid): used for pid, used in (grown[2] or {}).items()},
            other_percent=percents.get("other"),
            others=others or {},
            steal_percent=percents.get("steal"),
            throttled_s=throttled_s,
            cores=None if self._cores is None or cores is None else (self._cores, cores),
            mhz=_mean(self._mhz),
            best_mhz=self._best_mhz or None,
            gpu_percent=_mean([gpu.utilization for gpu in self._gpu]),
            gpu_memory_mib=max(memory, default=None),
            gpu_power_w=_mean([gpu.power_draw for gpu in self._gpu]),
        )

    def _counters(self) -> tuple[float, float | None, list[_Counter | None]]:
        """The time, the number of cores, and what grows; None could not be read."""
        readers: dict[str, Callable[[], _Counter | None]] = {
            "the machine's CPU times": _machine,
            "the CPU quota": lambda: {"throttled": throttled_s()},
            "this process's CPU times": lambda: {"own": sum(psutil.Process().cpu_times()[:2])},
            "the server's CPU times": lambda: tree_cpu_s(self._server),
            "the load generator's CPU times": lambda: tree_cpu_s(self._client),
        }
        cores = self._read("the number of cores", available_cores)
        return perf_counter(), cores, [self._read(what, reader) for what, reader in readers.items()]

    def _read(self, what: str, reader: Callable[[], Value]) -> Value | None:
        """The reader's value; None, which is said the first time, where it fails."""
        try:
            return reader()
        except Exception as error:  # psutil's, NVML's, the system's: none is worth the other values
            if what not in self._failed:
                self._failed.add(what)
                reason = str(error) or type(error).__name__
                print_wrapped(f"telemetry has gaps: {what} could not be read ({reason})")
            return None


def tree_cpu_s(root: int | None) -> _Counter | None:
    """CPU seconds of each process of a tree, by process id; None without a root."""
    if root is None:
        return None
    found: dict[int | str, float] = {}
    for process in tree(root):
        with suppress(psutil.NoSuchProcess):
            found[process.pid] = sum(process.cpu_times()[:2])
    return found


def _grown(before: _Counter | None, after: _Counter | None) -> _Counter | None:
    # What has ended meanwhile is left out, as it is not known how much it did.
    if before is None or after is None:
        return None
    return {name: used - before.get(name, 0.0) for name, used in after.items()}


def _machine() -> _Counter:
    """CPU seconds of all cores since the machine's start."""
    times = psutil.cpu_times()
    # Linux includes the time of guests in that of user and nice.
    total_s = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
    steal_s = getattr(times, "steal", 0.0)
    busy_s = total_s - times.idle - getattr(times, "iowait", 0.0) - steal_s
    return {"busy": busy_s, "all": total_s, "steal": steal_s}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def available_cores(root: Path = CGROUP) -> float:
    """Cores that this process may use: its affinity, or a smaller quota of its cgroup."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = (root / "cpu.max").read_text().split()
    except (OSError, ValueError):
        return float(affinity)
    return float(affinity) if quota == "max" else min(affinity, int(quota) / int(period))


def _mhz() -> float | None:
    try:
        frequency = psutil.cpu_freq()
    except (AttributeError, OSError, NotImplementedError):  # not available on this system
        return None
    return float(frequency.current) if frequency and frequency.current else None


def throttled_s(root: Path = CGROUP) -> float:
    """Seconds for which a CPU quota has stopped the cgroup's processes so far, 0 without a quota."""
    try:
        words = (root / "cpu.stat").read_text().split()
    except OSError:
        return 0.0
    stat = dict(zip(words[::2], words[1::2], strict=False))
    return float(stat.get("throttled_usec", 0)) / 1e6
