"""CPU and GPU usage of a turn, read as it begins, as it goes on and as it ends. Unknown is None, never 0.

A reading that fails leaves a gap in its own values: the others go on, and it is said once.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import TypeVar

import psutil

from litmeter.system.machine import cuda_gpu
from litmeter.system.processes import CGROUP
from litmeter.system.progress import print_wrapped

Value = TypeVar("Value")


@dataclass(frozen=True)
class Usage:
    """Resource usage from a turn's begin to its end.

    Attributes:
        seconds: between the two readings.
        cpu_percent: of all cores of the machine.
        server_s, client_s: CPU seconds of either's process tree.
        process_s: CPU seconds of each process of the server, by process id.
        other_percent: CPU that processes other than server, client and this one used, of the machine; not
            known where the server's are not.
        steal_percent: CPU that the hypervisor gave to other machines, of the machine.
        throttled_s: how long the cgroup's CPU quota stopped its processes.
        cores: available to this process, at the begin and at the end.
        mhz, best_mhz: mean frequency of the cores, in the turn and the highest so far.
        gpu_percent: utilisation of the first CUDA device, mean of the readings.
        gpu_memory_mib: memory in use on it, highest reading.
        gpu_power_w: mean of the readings.
    """

    seconds: float = 0.0
    cpu_percent: float | None = None
    server_s: float | None = None
    client_s: float | None = None
    process_s: Mapping[int, float] = field(default_factory=dict)
    other_percent: float | None = None
    steal_percent: float | None = None
    throttled_s: float | None = None
    cores: tuple[float, float] | None = None
    mhz: float | None = None
    best_mhz: float | None = None
    gpu_percent: float | None = None
    gpu_memory_mib: float | None = None
    gpu_power_w: float | None = None


@dataclass(frozen=True)
class _Counters:
    """What grows: CPU seconds since the start of the machine, or of a process; None could not be read."""

    time: float
    machine: tuple[float, float, float] | None  # busy, all, stolen
    throttled_s: float | None
    cores: float | None
    server_s: Mapping[int, float] | None
    client_s: Mapping[int, float] | None
    own_s: float | None


class Telemetry:
    """Reads the usage of one turn after another."""

    def __init__(self) -> None:
        self._server: int | None = None
        self._client: int | None = None
        self._begin: _Counters | None = None
        self._mhz: list[float] = []
        self._gpu: list[tuple[float | None, float | None, float | None]] = []
        self._best_mhz = 0.0
        self._failed: set[str] = set()

    def begin(self, server_pid: int | None, client_pid: int | None) -> None:
        """Begin a turn.

        Args:
            server_pid: root of the process tree that is measured; None where it is not known.
            client_pid: of the load generator; None where several send, or nothing is sent.
        """
        self._server, self._client = server_pid, client_pid
        self._mhz, self._gpu = [], []
        self._begin = self._counters()

    def tick(self) -> None:
        """Read what has a value of the moment: frequencies, and the GPU."""
        mhz = self._read("the CPU's frequency", _mhz)
        if mhz is not None:
            self._mhz.append(mhz)
            self._best_mhz = max(self._best_mhz, mhz)
        gpu = self._read("the GPU", cuda_gpu)
        if gpu is not None:
            self._gpu.append((gpu.utilization, gpu.memory_used, gpu.power_draw))

    def end(self) -> Usage:
        """Usage since ``begin``."""
        assert self._begin is not None
        before, after = self._begin, self._counters()
        total_s = busy_s = steal_s = None
        if before.machine is not None and after.machine is not None:
            busy_s, total_s, steal_s = (b - a for a, b in zip(before.machine, after.machine, strict=True))

        def percent(part_s: float | None) -> float | None:
            return 100 * part_s / total_s if part_s is not None and total_s else None

        server, client = grown(before.server_s, after.server_s), grown(before.client_s, after.client_s)
        server_s, client_s = (None if one is None else sum(one.values()) for one in (server, client))
        own_s = _difference(before.own_s, after.own_s)
        ours = (server_s, 0.0 if self._client is None else client_s, own_s)
        known = [used for used in ours if used is not None]
        others_s = None if busy_s is None or len(known) < len(ours) else max(0.0, busy_s - sum(known))
        percents, memory, power = (
            [values[index] for values in self._gpu if values[index] is not None] for index in range(3)
        )
        return Usage(
            seconds=after.time - before.time,
            cpu_percent=percent(busy_s),
            server_s=server_s,
            client_s=client_s,
            process_s=server or {},
            other_percent=percent(others_s),
            steal_percent=percent(steal_s),
            throttled_s=_difference(before.throttled_s, after.throttled_s),
            cores=None if before.cores is None or after.cores is None else (before.cores, after.cores),
            mhz=_mean(self._mhz),
            best_mhz=self._best_mhz or None,
            gpu_percent=_mean(percents),
            gpu_memory_mib=max((mib for mib in memory if mib is not None), default=None),
            gpu_power_w=_mean(power),
        )

    def _counters(self) -> _Counters:
        return _Counters(
            time=perf_counter(),
            machine=self._read("the machine's CPU times", _machine),
            throttled_s=self._read("the CPU quota", throttled_s),
            cores=self._read("the number of cores", available_cores),
            server_s=self._read("the server's CPU times", lambda: tree_cpu_s(self._server)),
            client_s=self._read("the load generator's CPU times", lambda: tree_cpu_s(self._client)),
            own_s=self._read("this process's CPU times", _own_cpu_s),
        )

    def _read(self, what: str, reader: Callable[[], Value]) -> Value | None:
        """The reader's value; None, which is said the first time, where it fails."""
        try:
            return reader()
        except Exception as error:  # psutil's, NVML's, the system's: none is worth the other values
            if what not in self._failed:
                self._failed.add(what)
                print_wrapped(
                    f"telemetry has gaps: {what} could not be read ({error or type(error).__name__})"
                )
            return None


def tree_cpu_s(root: int | None) -> dict[int, float] | None:
    """CPU seconds of a process and all its descendants, by process id; None without a root."""
    if root is None:
        return None
    found = {}
    main = psutil.Process(root)
    for process in [main, *main.children(recursive=True)]:
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        found[process.pid] = times.user + times.system
    return found


def grown(before: Mapping[int, float] | None, after: Mapping[int, float] | None) -> dict[int, float] | None:
    """By how much each grew; one that has ended meanwhile is left out, as it is not known how much it did."""
    if before is None or after is None:
        return None
    return {pid: used - before.get(pid, 0.0) for pid, used in after.items()}


def _difference(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else after - before


def _machine() -> tuple[float, float, float]:
    """CPU seconds of all cores since the machine's start: busy, all, stolen."""
    times = psutil.cpu_times()
    # Linux includes the time of guests in that of user and nice.
    total_s = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
    steal_s = getattr(times, "steal", 0.0)
    idle_s = times.idle + getattr(times, "iowait", 0.0) + steal_s
    return total_s - idle_s, total_s, steal_s


def _own_cpu_s() -> float:
    own = psutil.Process().cpu_times()
    return own.user + own.system


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
