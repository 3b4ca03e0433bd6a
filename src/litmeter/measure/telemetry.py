"""CPU and GPU usage, sampled while the load runs. Unknown values are None, never 0.

A reading that fails leaves a gap in its own values: the others go on, and it is said once.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import TypeVar

import numpy as np
import psutil

from litmeter.system.machine import cuda_gpu
from litmeter.system.processes import CGROUP
from litmeter.system.progress import print_wrapped

Value = TypeVar("Value")


@dataclass(frozen=True)
class Usage:
    """Resource usage during one window.

    Attributes:
        cpu_percent: of all cores of the machine.
        server_cores, client_cores: CPU seconds per second of either's process tree.
        process_cores: CPU seconds per second of each process of the server, by process id.
        other_percent: CPU that processes other than server, client and this one used, of the machine.
        steal_percent: CPU that the hypervisor gave to other machines, of the machine.
        throttled_s: how long the cgroup's CPU quota stopped its processes.
        cores: available to this process, fewest and most during the window.
        mhz, best_mhz: mean frequency of the cores, in the window and the highest so far.
        gpu_percent: utilisation of the first CUDA device, mean of the samples.
        gpu_memory_mib: memory in use on it, highest sample.
        gpu_power_w: mean of the samples.
    """

    cpu_percent: float | None = None
    server_cores: float | None = None
    client_cores: float | None = None
    process_cores: Mapping[int, float] = field(default_factory=dict)
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
class Gpu:
    """One reading of the first CUDA device; values that it does not report are None."""

    percent: float | None = None
    memory_mib: float | None = None
    power_w: float | None = None


@dataclass(frozen=True)
class _Machine:
    """CPU seconds of all cores since the machine's start."""

    busy_s: float
    total_s: float
    steal_s: float


@dataclass(frozen=True)
class _Sample:
    """One reading; CPU times are cumulative, and what could not be read is None."""

    time: float
    machine: _Machine | None
    throttled_s: float | None
    cores: float | None
    mhz: float | None
    server_s: Mapping[int, float] | None
    client_s: Mapping[int, float] | None
    own_s: float | None
    gpu: Gpu


@dataclass
class _ProcessTree:
    """A process and all its descendants.

    Attributes:
        cpu_s: CPU seconds by process id, including processes that have ended.
    """

    root: psutil.Process
    cpu_s: dict[int, float] = field(default_factory=dict)

    def read(self) -> dict[int, float]:
        """CPU seconds used so far, by process id."""
        try:
            processes = [self.root, *self.root.children(recursive=True)]
        except psutil.NoSuchProcess:
            processes = []
        for process in processes:
            try:
                times = process.cpu_times()
            except psutil.NoSuchProcess:
                continue
            self.cpu_s[process.pid] = times.user + times.system
        return dict(self.cpu_s)


class Telemetry:
    """Samples the usage of machine, server and client in a thread until the ``with`` block is left."""

    def __init__(self, server_pid: int, interval_s: float = 0.25) -> None:
        self.interval_s = interval_s
        self._server = _ProcessTree(psutil.Process(server_pid))
        self._client: _ProcessTree | None = None
        self._samples: list[_Sample] = []
        self._failed: set[str] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="telemetry", daemon=True)

    def __enter__(self) -> Telemetry:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def follow_client(self, pid: int) -> None:
        """Sample the process ``pid`` as the load generator from now on."""
        self._client = _ProcessTree(psutil.Process(pid))

    def usage(self, opened: float, closed: float) -> Usage:
        """Usage between two times of the monotonic clock.

        Cumulative CPU times are interpolated at both edges of the window; frequencies and GPU values
        are those of the samples inside.
        """
        samples = list(self._samples)  # the thread goes on
        inside = [s for s in samples if opened <= s.time <= closed]
        if len(inside) < 2:
            return Usage()
        seconds = closed - opened

        def known(values: Iterable[float | None]) -> list[float]:
            return [value for value in values if value is not None]

        def growth(values: Sequence[float | None]) -> float | None:
            """Of a cumulative value; None with fewer than two readings inside."""
            readings = [
                (s.time, value) for s, value in zip(samples, values, strict=True) if value is not None
            ]
            if sum(opened <= time <= closed for time, _ in readings) < 2:
                return None
            at_open, at_close = np.interp([opened, closed], *np.array(readings).T)
            return float(at_close - at_open)

        def of_machine(name: str) -> float | None:
            return growth([None if s.machine is None else getattr(s.machine, name) for s in samples])

        def percent(part_s: float | None) -> float | None:
            return 100 * part_s / total_s if part_s is not None and total_s else None

        total_s, busy_s = of_machine("total_s"), of_machine("busy_s")
        server_s = growth([None if s.server_s is None else sum(s.server_s.values()) for s in samples])
        client_s = growth([None if s.client_s is None else sum(s.client_s.values()) for s in samples])
        not_others_s = known([server_s, client_s, growth([s.own_s for s in samples])])
        others_s = (
            max(0.0, busy_s - sum(not_others_s)) if busy_s is not None and len(not_others_s) == 3 else None
        )
        of_process = {
            pid: growth([None if s.server_s is None else s.server_s.get(pid, 0.0) for s in samples])
            for pid in next((s.server_s for s in reversed(inside) if s.server_s is not None), {})
        }
        cores = known(s.cores for s in inside)
        return Usage(
            cpu_percent=percent(busy_s),
            server_cores=None if server_s is None else server_s / seconds,
            client_cores=None if client_s is None else client_s / seconds,
            process_cores={pid: used / seconds for pid, used in of_process.items() if used is not None},
            other_percent=percent(others_s),
            steal_percent=percent(of_machine("steal_s")),
            throttled_s=growth([s.throttled_s for s in samples]),
            cores=(min(cores), max(cores)) if cores else None,
            mhz=_mean(known(s.mhz for s in inside)),
            best_mhz=max(known(s.mhz for s in samples), default=None),
            gpu_percent=_mean(known(s.gpu.percent for s in inside)),
            gpu_memory_mib=max(known(s.gpu.memory_mib for s in inside), default=None),
            gpu_power_w=_mean(known(s.gpu.power_w for s in inside)),
        )

    @property
    def peak_gpu_memory_mib(self) -> float | None:
        """Highest memory in use on the first CUDA device, None without one."""
        return max((s.gpu.memory_mib for s in self._samples if s.gpu.memory_mib), default=None)

    def _run(self) -> None:
        while not self._stop.wait(self.interval_s):
            self._samples.append(self._sample())

    def _sample(self) -> _Sample:
        return _Sample(
            time=perf_counter(),
            machine=self._read("the machine's CPU times", _machine),
            throttled_s=self._read("the CPU quota", throttled_s),
            cores=self._read("the number of cores", available_cores),
            mhz=self._read("the CPU's frequency", _mhz),
            server_s=self._read("the server's CPU times", self._server.read),
            client_s=self._read("the load generator's CPU times", self._client.read)
            if self._client
            else None,
            own_s=self._read("this process's CPU times", _own_cpu_s),
            gpu=self._read("the GPU", _gpu) or Gpu(),
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


def _machine() -> _Machine:
    times = psutil.cpu_times()
    # Linux includes the time of guests in that of user and nice.
    total_s = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
    steal_s = getattr(times, "steal", 0.0)
    idle_s = times.idle + getattr(times, "iowait", 0.0) + steal_s
    return _Machine(total_s - idle_s, total_s, steal_s)


def _own_cpu_s() -> float:
    own = psutil.Process().cpu_times()
    return own.user + own.system


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


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


def _gpu() -> Gpu:
    gpu = cuda_gpu()
    return Gpu() if gpu is None else Gpu(gpu.utilization, gpu.memory_used, gpu.power_draw)
