"""CPU, memory and GPU, sampled while the load runs. Unknown is None, never 0."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import gpustat
import numpy as np
import psutil
import pynvml

MIB = 2**20


@dataclass(frozen=True)
class Usage:
    """What was used during one window.

    Attributes:
        cpu_percent: of all cores of the machine.
        server_cores, client_cores: CPU seconds per second of either's whole process tree.
        gpu_percent: utilisation of the first GPU, mean of the samples.
        gpu_memory_mib: memory in use on the first GPU, highest sample.
    """

    cpu_percent: float | None
    server_cores: float | None
    client_cores: float | None
    gpu_percent: float | None
    gpu_memory_mib: float | None


@dataclass(frozen=True)
class _Sample:
    time: float
    machine_busy_s: float
    machine_total_s: float
    server_cpu_s: float
    client_cpu_s: float | None
    server_rss_mib: float
    gpu_percent: float | None
    gpu_memory_mib: float | None


@dataclass
class _Tree:
    """A process and all its descendants; the CPU time of those that have ended is kept."""

    root: psutil.Process
    seen_s: dict[int, float] = field(default_factory=dict)

    def read(self) -> tuple[float, float]:
        """CPU seconds used so far, and resident memory now, MiB."""
        rss = 0.0
        try:
            processes = [self.root, *self.root.children(recursive=True)]
        except psutil.NoSuchProcess:
            processes = []
        for process in processes:
            try:
                with process.oneshot():
                    times = process.cpu_times()
                    rss += process.memory_info().rss / MIB
            except psutil.NoSuchProcess:
                continue
            self.seen_s[process.pid] = times.user + times.system
        return sum(self.seen_s.values()), rss


class Telemetry:
    """A thread that samples until the ``with`` block is left."""

    def __init__(self, server_pid: int, interval_s: float = 0.25) -> None:
        self.interval_s = interval_s
        self.peak_server_rss_mib = 0.0
        self._server = _Tree(psutil.Process(server_pid))
        self._client: _Tree | None = None
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
        """Watch ``pid`` as the load generator from now on."""
        self._client = _Tree(psutil.Process(pid))

    def usage(self, opened: float, closed: float) -> Usage:
        """What was used between two moments of the monotonic clock.

        CPU time is cumulative, so its value at either edge is interpolated between the samples
        around it; GPU values are those of the samples inside.
        """
        samples = [s for s in self._samples if s.client_cpu_s is not None]
        inside = [s for s in samples if opened <= s.time <= closed]
        if len(inside) < 2:
            return Usage(None, None, None, None, None)
        seconds = closed - opened

        def used(name: str) -> float:
            values = np.interp(
                [opened, closed], [s.time for s in samples], [getattr(s, name) for s in samples]
            )
            return float(values[1] - values[0])

        gpu = [s.gpu_percent for s in inside if s.gpu_percent is not None]
        memory = [s.gpu_memory_mib for s in inside if s.gpu_memory_mib is not None]
        total = used("machine_total_s")
        return Usage(
            cpu_percent=100 * used("machine_busy_s") / total if total > 0 else None,
            server_cores=used("server_cpu_s") / seconds,
            client_cores=used("client_cpu_s") / seconds,
            gpu_percent=sum(gpu) / len(gpu) if gpu else None,
            gpu_memory_mib=max(memory) if memory else None,
        )

    @property
    def peak_gpu_memory_mib(self) -> float | None:
        """Highest memory in use on the first GPU, None without one."""
        return max((s.gpu_memory_mib for s in self._samples if s.gpu_memory_mib), default=None)

    def _run(self) -> None:
        while not self._stop.wait(self.interval_s):
            self._samples.append(self._sample())

    def _sample(self) -> _Sample:
        machine = psutil.cpu_times()
        total = sum(machine)
        idle = machine.idle + getattr(machine, "iowait", 0.0)
        server_cpu_s, rss = self._server.read()
        self.peak_server_rss_mib = max(self.peak_server_rss_mib, rss)
        gpu_percent, gpu_memory = self._gpu() if self._gpu else (None, None)
        return _Sample(
            time=perf_counter(),
            machine_busy_s=total - idle,
            machine_total_s=total,
            server_cpu_s=server_cpu_s,
            client_cpu_s=self._client.read()[0] if self._client else None,
            server_rss_mib=rss,
            gpu_percent=gpu_percent,
            gpu_memory_mib=gpu_memory,
        )


def gpu_reader() -> Callable[[], tuple[float | None, float | None]] | None:
    """A function that reads utilisation (%) and memory in use (MiB) of the first NVIDIA GPU.

    None on a machine without one.
    """
    try:
        if not gpustat.new_query().gpus:
            return None
    except pynvml.NVMLError:
        return None

    def read() -> tuple[float | None, float | None]:
        gpu: Any = gpustat.new_query().gpus[0]
        return _number(gpu.utilization), _number(gpu.memory_used)

    return read


def _number(value: Any) -> float | None:
    """NVML's value, None where the GPU does not report it."""
    return float(value) if isinstance(value, (int, float)) else None
