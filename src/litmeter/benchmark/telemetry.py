"""CPU and GPU usage, sampled while the load runs. Unknown values are None, never 0."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import gpustat
import numpy as np
import psutil
import pynvml

from litmeter.system.processes import CGROUP


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
        gpu_percent: utilisation of the first GPU, mean of the samples.
        gpu_memory_mib: memory in use on the first GPU, highest sample.
        gpu_power_w, gpu_clock_mhz: of the first GPU, mean of the samples.
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
    gpu_clock_mhz: float | None = None


@dataclass(frozen=True)
class Gpu:
    """One reading of the first GPU; values that it does not report are None."""

    percent: float | None = None
    memory_mib: float | None = None
    power_w: float | None = None
    clock_mhz: float | None = None


@dataclass(frozen=True)
class _Sample:
    """One reading; CPU times are cumulative."""

    time: float
    machine_busy_s: float
    machine_total_s: float
    machine_steal_s: float
    throttled_s: float
    cores: float
    mhz: float | None
    server_cpu_s: float
    process_cpu_s: Mapping[int, float]
    client_cpu_s: float | None
    own_cpu_s: float
    gpu: Gpu


@dataclass
class _ProcessTree:
    """A process and all its descendants.

    Attributes:
        cpu_s: CPU seconds by process id, including processes that have ended.
    """

    root: psutil.Process
    cpu_s: dict[int, float] = field(default_factory=dict)

    def read(self) -> float:
        """CPU seconds used so far."""
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
        return sum(self.cpu_s.values())


class Telemetry:
    """Samples the usage of machine, server and client in a thread until the ``with`` block is left."""

    def __init__(self, server_pid: int, interval_s: float = 0.25) -> None:
        self.interval_s = interval_s
        self._server = _ProcessTree(psutil.Process(server_pid))
        self._client: _ProcessTree | None = None
        self._samples: list[_Sample] = []
        self._gpu = gpu_reader()
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
        samples = [s for s in self._samples if s.client_cpu_s is not None]
        inside = [s for s in samples if opened <= s.time <= closed]
        if len(inside) < 2:
            return Usage()
        seconds = closed - opened
        times = [s.time for s in samples]

        def growth(values: Sequence[float]) -> float:
            at_edges = np.interp([opened, closed], times, values)
            return float(at_edges[1] - at_edges[0])

        def used(name: str) -> float:
            return growth([getattr(s, name) for s in samples])

        def mean_of_known(values: Iterable[float | None]) -> float | None:
            known = [value for value in values if value is not None]
            return sum(known) / len(known) if known else None

        total = used("machine_total_s")
        busy, server, client = used("machine_busy_s"), used("server_cpu_s"), used("client_cpu_s")
        other = max(0.0, busy - server - client - used("own_cpu_s"))
        memory = [s.gpu.memory_mib for s in inside if s.gpu.memory_mib is not None]
        return Usage(
            cpu_percent=100 * busy / total if total > 0 else None,
            server_cores=server / seconds,
            client_cores=client / seconds,
            process_cores={
                pid: growth([s.process_cpu_s.get(pid, 0.0) for s in samples]) / seconds
                for pid in inside[-1].process_cpu_s
            },
            other_percent=100 * other / total if total > 0 else None,
            steal_percent=100 * used("machine_steal_s") / total if total > 0 else None,
            throttled_s=used("throttled_s"),
            cores=(min(s.cores for s in inside), max(s.cores for s in inside)),
            mhz=mean_of_known(s.mhz for s in inside),
            best_mhz=max((s.mhz for s in samples if s.mhz), default=None),
            gpu_percent=mean_of_known(s.gpu.percent for s in inside),
            gpu_memory_mib=max(memory, default=None),
            gpu_power_w=mean_of_known(s.gpu.power_w for s in inside),
            gpu_clock_mhz=mean_of_known(s.gpu.clock_mhz for s in inside),
        )

    @property
    def peak_gpu_memory_mib(self) -> float | None:
        """Highest memory in use on the first GPU, None without one."""
        return max((s.gpu.memory_mib for s in self._samples if s.gpu.memory_mib), default=None)

    def _run(self) -> None:
        while not self._stop.wait(self.interval_s):
            self._samples.append(self._sample())

    def _sample(self) -> _Sample:
        machine = psutil.cpu_times()
        # Linux includes the time of guests in that of user and nice.
        total = sum(machine) - getattr(machine, "guest", 0.0) - getattr(machine, "guest_nice", 0.0)
        steal = getattr(machine, "steal", 0.0)
        idle = machine.idle + getattr(machine, "iowait", 0.0) + steal
        server_cpu_s = self._server.read()
        this_process = psutil.Process().cpu_times()
        return _Sample(
            time=perf_counter(),
            machine_busy_s=total - idle,
            machine_total_s=total,
            machine_steal_s=steal,
            throttled_s=throttled_s(),
            cores=available_cores(),
            mhz=_mhz(),
            server_cpu_s=server_cpu_s,
            process_cpu_s=dict(self._server.cpu_s),
            client_cpu_s=self._client.read() if self._client else None,
            own_cpu_s=this_process.user + this_process.system,
            gpu=self._gpu() if self._gpu else Gpu(),
        )


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


def gpu_reader() -> Callable[[], Gpu] | None:
    """A function that reads the first NVIDIA GPU; None on a machine without one."""
    try:
        pynvml.nvmlInit()  # once more than gpustat, which shuts its own use down after each query
        if not gpustat.new_query().gpus:
            return None
    except pynvml.NVMLError:
        return None
    handle = pynvml.nvmlDeviceGetHandleByIndex(0)

    def read() -> Gpu:
        gpu: Any = gpustat.new_query().gpus[0]
        try:
            clock = float(pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM))
        except pynvml.NVMLError:
            clock = None
        return Gpu(_number(gpu.utilization), _number(gpu.memory_used), _number(gpu.power_draw), clock)

    return read


def _number(value: Any) -> float | None:
    """NVML's value, None where the GPU does not report it."""
    return float(value) if isinstance(value, (int, float)) else None
