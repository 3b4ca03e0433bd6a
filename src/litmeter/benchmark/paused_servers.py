"""Servers that run at once, each of them stopped but for its turns."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import numpy as np

from litmeter.benchmark.turns import Turn
from litmeter.errors import LoadError, ServerError
from litmeter.loadgen import LoadGenerator, LoadPlan
from litmeter.params import LoadSettings, ServeSettings
from litmeter.paths import ModelFolders
from litmeter.serving.launcher import RunningServer, StartingServer, starting_server
from litmeter.stats.records import OK, LoadRecord
from litmeter.stats.stability import WINDOWS
from litmeter.stats.windows import block_rates
from litmeter.system.machine import cuda_gpu
from litmeter.system.processes import available_memory, memory_of

WARMUP_S = 0.15
"""Once every user has had an answer: from then on rates keep their level."""
SLOW_TURN_S = 8.0
ANSWERS_PER_USER = 3
"""A turn's measurement lasts until this many answers per user, but at most SLOW_TURN_S."""
FIRST_ANSWERS_S = 2.0
"""A server that takes longer for its users' first answers is slow: its whole turn is measured, in which each
user sends ANSWERS_PER_USER requests, for at most SLOW_TURN_S. It would take twice as long with the load kept
up before and after the measurement."""
MEMORY_RESERVE = 1.2
"""Workers grow under load. So the next server starts if this times the largest worker's memory is free for
each worker of it and of those that still start, and a fifth of it for each that is ready. Models are loaded
once more, without servers, if this times their servers' memory is free."""
STARTED_AT_ONCE = 5
"""Servers, once the first one is ready: each starts its processes one after another, with a core idle. On a
GPU one, as what is free there says nothing of a single server while others load."""


class PausedServer:
    """A server that is stopped except during its turns."""

    def __init__(self, name: str, server: RunningServer) -> None:
        self.name = name
        self.pid = server.pid
        self._server = server
        server.pause()

    def kill(self) -> None:
        """End it at once, to free its memory; it takes no more turns."""
        self._server.kill()

    def take_turn(
        self,
        generator: LoadGenerator,
        load: LoadSettings,
        number: int,
        users: int,
        turn_s: float,
    ) -> Turn:
        """Continue the server, load it, and stop it when no request is in flight.

        Args:
            turn_s: seconds that are measured, at least; see SLOW_TURN_S and FIRST_ANSWERS_S.

        Raises:
            ServerError: the server died; LoadError: the load generator failed.
        """
        plan = LoadPlan(
            users=users,
            requests=ANSWERS_PER_USER * users,
            warmup_s=WARMUP_S,
            min_s=turn_s,
            max_s=SLOW_TURN_S,
            max_windows=WINDOWS,
            timeout_s=load.timeout_s,
            seed=load.seed,
            repeat=number,
            give_up_s=FIRST_ANSWERS_S,
        )
        with named(self.name):
            return turn_of(self.name, number, self._record(generator, plan))

    def _record(self, generator: LoadGenerator, plan: LoadPlan) -> LoadRecord:
        self._server.check()
        self._server.resume()
        try:
            return generator.run(
                f"{self._server.url}/predict", plan, on_progress=lambda *_: self._server.check()
            )
        except LoadError:
            self._server.check()
            raise
        finally:
            self._server.pause()


def turn_of(name: str, number: int, record: LoadRecord) -> Turn:
    """Rate and latencies of a record.

    A request counts in the share of it that lies within the window, so one that is answered after its end
    does, too. Without any, the rate was below all good answers, and one more per user, over the load's time.
    """
    good = record.status == OK
    failed = int((~good).sum())
    rate_rps = float(block_rates(record.start[good], record.end[good], *record.window).mean())
    if not rate_rps:
        bound_rps = float((good.sum() + record.users) / (record.end.max() - record.start.min()))
        return Turn(number, record.users, name, None, np.array([]), failed, bound_rps)
    latency_ms = 1000 * (record.end - record.start)[good & record.in_window]
    return Turn(number, record.users, name, rate_rps, latency_ms, failed)


@contextmanager
def named(configuration: str) -> Iterator[None]:
    """Raise a server's error with the name of its configuration."""
    try:
        yield
    except ServerError as error:
        raise ServerError(f"{configuration}: {error}") from error


@dataclass
class Memory:
    """Whether a kind of memory has room for another server.

    Attributes:
        free_bytes: what is free now.
        worker_bytes: of the largest worker so far; on a GPU, of all so far in the mean.
    """

    free_bytes: Callable[[], int]
    worker_bytes: float = field(default=0.0, init=False)

    def fits(self, new: int, ready: int) -> bool:
        """Whether ``new`` workers, of which some may load already, have room beside ``ready`` ones."""
        needed = self.worker_bytes * (MEMORY_RESERVE * new + (MEMORY_RESERVE - 1) * ready)
        return self.free_bytes() >= needed


def free_gpu_bytes() -> int:
    """Memory that is free on the first CUDA device; 0 where that is not known."""
    gpu = cuda_gpu()
    return 0 if gpu is None else int(gpu.memory_available) * 2**20


def has_room_for_copies(
    servers: Sequence[PausedServer], more_bytes: int, gpu_share: float, device: str
) -> bool:
    """Whether memory has room for what ``servers`` take once more, and ``more_bytes``.

    Args:
        gpu_share: their share of the GPU's memory that is in use; nothing on a CPU depends on it.
    """
    own_bytes = sum(memory_of(server.pid) for server in servers)
    if available_memory() < MEMORY_RESERVE * (own_bytes + more_bytes):
        return False
    gpu = cuda_gpu() if device == "cuda" else None
    return gpu is None or bool(gpu.memory_available >= MEMORY_RESERVE * gpu_share * gpu.memory_used)


@contextmanager
def paused_servers(
    names: Sequence[str],
    configurations: Mapping[str, ServeSettings],
    folders: ModelFolders,
    device: str,
    timeout_s: float,
    free_bytes: Callable[[], int] = available_memory,
    free_gpu: Callable[[], int] = free_gpu_bytes,
) -> Iterator[list[PausedServer]]:
    """Start servers of the first of ``names``, as many as fit into memory; stop each once it is ready.

    Args:
        free_bytes, free_gpu: memory that is free, of the machine and, on the device "cuda", of its GPU.

    Raises:
        ServerError: a server did not start.
    """
    memory = Memory(free_bytes)
    gpu = Memory(free_gpu) if device == "cuda" else None
    gpu_before = free_gpu() if gpu else 0
    with ExitStack() as stack:
        group: list[PausedServer] = []
        starting: deque[tuple[str, StartingServer]] = deque()
        most = 1 if gpu else STARTED_AT_ONCE
        waiting, fits = deque(names), True

        def workers_of(some: Sequence[str]) -> int:
            return sum(configurations[name].workers_per_device for name in some)

        while starting or (waiting and fits):
            while waiting and fits and len(starting) < (most if group else 1):
                new = workers_of([*(name for name, _ in starting), waiting[0]])
                ready = workers_of([server.name for server in group])
                fits = len(group) + len(starting) < 2 or (
                    memory.fits(new, ready) and (gpu is None or gpu.fits(new, ready))
                )
                if fits:
                    name = waiting.popleft()
                    server = starting_server(folders, configurations[name], device, timeout_s)
                    starting.append((name, stack.enter_context(server)))
            if starting:
                name, first = starting.popleft()
                with named(name):
                    group.append(PausedServer(name, first.ready()))
                own_bytes = memory_of(group[-1].pid) / configurations[name].workers_per_device
                memory.worker_bytes = max(memory.worker_bytes, own_bytes)
                if gpu:
                    taken = gpu_before - free_gpu()
                    gpu.worker_bytes = taken / workers_of([server.name for server in group])
        yield group
