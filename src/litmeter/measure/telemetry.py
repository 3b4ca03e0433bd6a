"""CPU and GPU usage of a turn, read at its begin, during it and at its end. Unknown is None, never 0.

A reading that fails leaves only its own values unknown; the first failure is printed.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import TypeVar

import psutil

from litmeter.measure.neighbours import Neighbours
from litmeter.measure.rows import OTHER_LOAD_PERCENT
from litmeter.say.progress import print_wrapped
from litmeter.system.cores import allowed_cpus, available_cores, throttled_s
from litmeter.system.gpu import Reading, read_gpu
from litmeter.system.processes import tree

Value = TypeVar("Value")


@dataclass(frozen=True)
class Usage:
    """Resource usage of a turn; percentages are of the cores that this process may use.

    Under a quota below the number of CPUs, usage by others and the hypervisor is unknown, and ``cpu_percent``
    is that of server, client and this process.

    Attributes:
        server_s, client_s: CPU seconds of the process tree.
        process_s: CPU seconds of the server's processes, by process id.
        process_waited_s: seconds that threads of these processes were ready to run without a core.
        client_waited_s: the same for the client.
        other_percent: usage by all other processes; unknown if the server's usage is.
        others: mean cores of busy other processes, by name; empty unless ``other_percent`` calls for
            a warning.
        steal_percent: time that the hypervisor gave to other machines.
        throttled_s: seconds that the cgroup's CPU quota stopped its processes.
        cores: cores available to this process, at the begin and at the end.
        mhz, best_mhz: mean frequency of the cores in the turn, and its highest value so far.
        gpu_percent, gpu_memory_mib, gpu_power_w: mean, highest and mean reading of the whole first CUDA
            device, stopped servers included. In the first AVERAGED_S only memory is read.
    """

    seconds: float = 0.0
    cpu_percent: float | None = None
    server_s: float | None = None
    client_s: float | None = None
    process_s: Mapping[int, float] = field(default_factory=dict)
    process_waited_s: Mapping[int, float] | None = None
    client_waited_s: float | None = None
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


AVERAGED_S = 1.0
"""NVML averages utilisation and power over at most so many seconds before the reading."""
_Counter = Mapping[int | str, float]
"""Growing seconds, by id of a process or thread, or by name."""


class Telemetry:
    """Reads the usage of one turn after another; that of the GPU if subjects run ``on_gpu``."""

    def __init__(self, on_gpu: bool) -> None:
        self._on_gpu = on_gpu
        self._best_mhz = 0.0
        self._failed: set[str] = set()
        self._neighbours = Neighbours()

    def begin(self, server_pid: int | None, client_pid: int | None) -> None:
        """Begin a turn, with the pids of ``Subject``."""
        self._server, self._client = server_pid, client_pid
        self._mhz: list[float] = []
        self._gpu: list[Reading] = []
        self._read("other processes", self._neighbours.begin)
        self._began, self._cores, self._before = self._counters()

    def tick(self) -> None:
        """Read momentary values: frequencies, and the GPU."""
        mhz = self._read("the CPU's frequency", _mhz)
        if mhz is not None:
            self._mhz.append(mhz)
            self._best_mhz = max(self._best_mhz, mhz)
        if self._on_gpu and (gpu := self._read("the GPU", read_gpu)) is not None:
            if perf_counter() - self._began < AVERAGED_S:
                gpu = gpu._replace(percent=None, power_w=None)
            self._gpu.append(gpu)

    def end(self) -> Usage:
        """Usage since ``begin``."""
        ended, cores, after = self._counters()
        machine, *grown = map(_grown, self._before, after)
        sums = (None if one is None else sum(one.values()) for one in grown)
        throttled_s, own_s, server_s, client_s, _, client_waited_s = sums
        ours = (own_s, server_s, 0.0 if self._client is None else client_s)
        ours_s = None if None in ours else sum(filter(None, ours))
        percents: dict[int | str, float] = {}
        if machine is not None and machine["all"]:
            percents = {name: 100 * used_s / machine["all"] for name, used_s in machine.items()}
            if ours_s is not None:
                percents["other"] = 100 * max(0.0, machine["busy"] - ours_s) / machine["all"]
        elif self._cores is not None and _is_quota(self._cores) and ours_s is not None:
            percents["busy"] = 100 * ours_s / (self._cores * (ended - self._began))
        busy = percents.get("other", 0.0) > OTHER_LOAD_PERCENT
        others = self._read("other processes", self._neighbours.busiest) if busy else None
        return Usage(
            seconds=ended - self._began,
            cpu_percent=percents.get("busy"),
            server_s=server_s,
            client_s=client_s,
            process_s={int(pid): used for pid, used in (grown[2] or {}).items()},
            process_waited_s=None if grown[4] is None else _by_process(grown[4]),
            client_waited_s=client_waited_s,
            other_percent=percents.get("other"),
            others=others or {},
            steal_percent=percents.get("steal"),
            throttled_s=throttled_s,
            cores=None if self._cores is None or cores is None else (self._cores, cores),
            mhz=_mean(self._mhz),
            best_mhz=self._best_mhz or None,
            gpu_percent=_mean([gpu.percent for gpu in self._gpu]),
            gpu_memory_mib=max((gpu.used_mib for gpu in self._gpu), default=None),
            gpu_power_w=_mean([gpu.power_w for gpu in self._gpu]),
        )

    def _counters(self) -> tuple[float, float | None, list[_Counter | None]]:
        """The time, the number of cores, and the counters; None for what could not be read."""
        cores = self._read("the number of cores", available_cores)
        server = self._read("the server's CPU times", lambda: tree_cpu_s(self._server))
        client = self._read("the load generator's CPU times", lambda: tree_cpu_s(self._client))
        readers: dict[str, Callable[[], _Counter | None]] = {
            "the machine's CPU times": lambda: None if cores is None or _is_quota(cores) else _machine(),
            "the CPU quota": lambda: {"throttled": throttled_s()},
            "this process's CPU times": lambda: {"own": sum(psutil.Process().cpu_times()[:2])},
            "the server's CPU times": lambda: server,
            "the load generator's CPU times": lambda: client,
            "the server's waits for a core": lambda: waited_s(server or ()),
            "the load generator's waits for a core": lambda: waited_s(client or ()),
        }
        return perf_counter(), cores, [self._read(what, reader) for what, reader in readers.items()]

    def _read(self, what: str, reader: Callable[[], Value]) -> Value | None:
        """The reader's value; None if it fails, which is printed the first time."""
        try:
            return reader()
        except Exception as error:  # of psutil, NVML or the system: none is worth losing the other values
            if what not in self._failed:
                self._failed.add(what)
                reason = str(error) or type(error).__name__
                print_wrapped(f"telemetry has gaps: {what} could not be read ({reason})")
            return None


def tree_cpu_s(root: int | None) -> _Counter | None:
    """CPU seconds of a process tree, by process id; None without a root."""
    if root is None:
        return None
    found: dict[int | str, float] = {}
    for process in tree(root):
        with suppress(psutil.NoSuchProcess):
            found[process.pid] = sum(process.cpu_times()[:2])
    return found


def waited_s(pids: Iterable[int | str]) -> _Counter | None:
    """Seconds that each thread of the processes was ready to run without a core, by "PID/TID".

    None without a process, or if the system does not count them (/proc/PID/task/TID/schedstat).
    """
    found: dict[int | str, float] = {}
    for path in (path for pid in pids for path in Path(f"/proc/{pid}/task").glob("*/schedstat")):
        with suppress(OSError):  # it has ended
            _, waited_ns, runs = map(int, path.read_text().split())
            if runs:  # else it has never run, or nothing is counted
                found[f"{path.parts[2]}/{path.parent.name}"] = waited_ns / 1e9
    return found or None


def _by_process(threads: _Counter) -> dict[int, float]:
    found: dict[int, float] = defaultdict(float)
    for thread, seconds in threads.items():
        found[int(str(thread).partition("/")[0])] += seconds
    return dict(found)


def _grown(before: _Counter | None, after: _Counter | None) -> _Counter | None:
    # Processes that have ended meanwhile are left out: their last values are unknown.
    if before is None or after is None:
        return None
    return {name: used - before.get(name, 0.0) for name, used in after.items()}


def _machine() -> _Counter:
    """CPU seconds of the CPUs that this process may use, since the machine's start."""
    times, allowed = psutil.cpu_times(percpu=True), allowed_cpus()
    if len(times) != len(allowed):
        numbers = re.findall(r"^cpu(\d+) ", Path("/proc/stat").read_text(), re.MULTILINE)
        times = [own for number, own in zip(numbers, times, strict=True) if int(number) in allowed]
    if len(times) != len(allowed):
        raise OSError(f"of {len(allowed)} CPUs that may be used {len(times)} are listed")
    found: dict[int | str, float] = {"busy": 0.0, "all": 0.0, "steal": 0.0}
    for own in times:
        # Linux includes the time of guests in that of user and nice.
        total_s = sum(own) - getattr(own, "guest", 0.0) - getattr(own, "guest_nice", 0.0)
        steal_s = getattr(own, "steal", 0.0)
        found["all"] += total_s
        found["steal"] += steal_s
        found["busy"] += total_s - own.idle - getattr(own, "iowait", 0.0) - steal_s
    return found


def _is_quota(cores: float) -> bool:
    """Whether ``cores`` is a quota of CPU time, spread over more CPUs."""
    return cores < len(allowed_cpus())


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _mhz() -> float | None:
    try:
        frequency = psutil.cpu_freq()
    except (AttributeError, OSError, NotImplementedError):  # not available on this system
        return None
    return float(frequency.current) if frequency and frequency.current else None
