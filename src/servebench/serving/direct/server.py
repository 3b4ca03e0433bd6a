"""A LitServer that looks after its processes: a worker that dies comes back, a server that stops leaves none.

Stock LitServe watches its workers from a thread, every two seconds, and ends all when one has died; when
the HTTP or the main process dies, the rest stays. Here the main thread itself waits, for the end of any
process and for signals, in the place where LitServe starts that thread. This is the one module that reaches
into LitServe: ``tests/unit/test_direct_server.py`` fails when what it relies on has changed.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from time import monotonic
from typing import Any, NoReturn

import litserve
from litserve.utils import WorkerSetupStatus

from servebench.processes import die_with
from servebench.serving.metrics import forget

logger = logging.getLogger(__name__)

FAILED_STARTS = 3
"""A worker that fails so often in a row, before it is ready, ends the server."""
ANSWERS_S = 5
"""How long clients may take to read their answers when the server stops."""
END_S = 3.0
"""How long the HTTP process may take beyond that to end by itself."""
READY_POLL_S = 0.05


class DirectServer(litserve.LitServer):
    """Serves one LitAPI; ``run`` ends by SystemExit, with 0 if it was told to stop and all was finished.

    Args:
        drain_s: how long the HTTP process may take to finish what it has accepted.
        protocol: makes uvicorn's protocol of a connection.
    """

    def __init__(
        self,
        api: litserve.LitAPI,
        *,
        drain_s: float,
        protocol: Callable[..., asyncio.Protocol],
        **options: Any,
    ) -> None:
        super().__init__(api, **options)
        self.uvicorn_graceful_timeout = ANSWERS_S
        self._drain_s = drain_s
        self._protocol = protocol
        self._came, self._signals = multiprocessing.Pipe(duplex=False)
        self._http: BaseProcess | None = None
        self._served = False
        self._told: float | None = None
        self._failed_starts: Counter[int] = Counter()
        self._restarts: dict[int, float] = {}

    def run(self, **options: Any) -> None:
        """Serve until told to stop; whatever happens, no process is left."""
        os.register_at_fork(after_in_child=partial(_begin_child, os.getpid()))
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, _: self._signals.send(number))
        # Forked before there is a socket: the manager process would hold the port open.
        self._manager = super()._init_manager(1)
        try:
            super().run(http=self._protocol, ws="none", **options)
        finally:
            for child in {*multiprocessing.active_children()} - {self._manager_process}:
                child.kill()
                child.join()
            self._manager.shutdown()

    def _init_manager(self, num_api_servers: int) -> Any:
        return self._manager

    @property
    def _manager_process(self) -> BaseProcess:
        process: BaseProcess = self._manager._process
        return process

    def verify_worker_status(self) -> None:
        """LitServe's wait for the first worker."""
        while WorkerSetupStatus.READY not in self.workers_setup_status.values():
            self._attend(READY_POLL_S)
        self._served = True

    def _start_server(
        self, port: int, number: int, log_level: str, sockets: list[Any], *rest: Any, **options: Any
    ) -> dict[int, BaseProcess]:
        # The HTTP process inherits the mask: what comes before it can drain waits until it can.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        processes: dict[int, BaseProcess] = super()._start_server(
            port, number, log_level, sockets, *rest, **options
        )
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        for listener in sockets:  # the HTTP process has its own
            listener.close()
        return processes

    def _start_worker_monitoring(self, manager: Any, uvicorn_workers: dict[int, BaseProcess]) -> None:
        """LitServe's call from the main thread, which stays here to the end."""
        (self._http,) = uvicorn_workers.values()
        while True:
            self._attend(None)

    def _perform_graceful_shutdown(self, *_: Any) -> None:
        """LitServe's way to stop, which leaves processes; ``run`` does it."""

    def _attend(self, most_s: float | None) -> None:
        """Wait, at most so long, until something happens; deal with it.

        Raises:
            SystemExit: the server shall end.
        """
        self._restart_due()
        workers = {
            process.sentinel: place
            for place, process in enumerate(self.inference_workers)
            if place not in self._restarts
        }
        watched = [self._came, self._manager_process.sentinel, *workers]
        if self._http is not None:
            watched.append(self._http.sentinel)
        happened = wait(watched, self._patience(most_s))
        if self._came in happened:
            self._heed(self._came.recv())
        if self._manager_process.sentinel in happened:
            self._fail(f"the manager process {_end_of(self._manager_process)}")
        if self._http is not None and self._http.sentinel in happened:
            self._http_ended(self._http)
        for sentinel in happened:
            if sentinel in workers:
                self._bury(workers[sentinel])
        if self._overdue_s() >= 0:
            self._fail("the HTTP process did not stop in time")

    def _overdue_s(self) -> float:
        """For how long the HTTP process should have stopped by itself."""
        if self._told is None:
            return float("-inf")
        return monotonic() - self._told - self._drain_s - ANSWERS_S - END_S

    def _patience(self, most_s: float | None) -> float | None:
        now = monotonic()
        limits = [moment - now for moment in self._restarts.values()]
        limits += [] if most_s is None else [most_s]
        limits += [] if self._told is None else [-self._overdue_s()]
        return max(0.0, min(limits)) if limits else None

    def _heed(self, number: int) -> None:
        if self._http is None:  # nothing has been accepted yet
            sys.exit(0)
        if self._told is None:
            self._told = monotonic()
            self._http.terminate()
        elif number == signal.SIGINT:  # a second Ctrl-C
            self._fail("interrupted while it stopped")

    def _http_ended(self, process: BaseProcess) -> None:
        process.join()
        if self._told is None or process.exitcode != 0:
            self._fail(f"the HTTP process {_end_of(process)}")
        sys.exit(0 if monotonic() - self._told < self._drain_s else 1)

    def _bury(self, place: int) -> None:
        """Note that a worker has died, and when its successor shall start."""
        process = self.inference_workers[place]
        process.join()
        forget(process.pid)
        self.lit_api.loop.note_death(place)
        key = f"{self.lit_api.api_path.split('/')[-1]}_{place}"
        was_ready = self.workers_setup_status[key] == WorkerSetupStatus.READY
        end = f"worker {process.pid} {_end_of(process)}"
        if was_ready:
            self._failed_starts[place] = 0
            self._restarts[place] = monotonic()
            logger.error("%s; another is started", end)
            return
        self._failed_starts[place] += 1
        if not self._served or self._failed_starts[place] >= FAILED_STARTS:
            self._fail(f"{end} before it was ready, {self._failed_starts[place]} in a row")
        pause_s = 2.0 ** (self._failed_starts[place] - 1)
        self._restarts[place] = monotonic() + pause_s
        logger.error("%s before it was ready; another is started in %g s", end, pause_s)

    def _restart_due(self) -> None:
        for place, moment in list(self._restarts.items()):
            if moment <= monotonic():
                del self._restarts[place]
                self.inference_workers[place] = self.launch_single_inference_worker(self.lit_api, place)

    def _fail(self, reason: str) -> NoReturn:
        logger.critical("%s; the server ends", reason)
        sys.exit(1)


def _begin_child(parent: int) -> None:
    """In the HTTP and the manager process: live as long as the main process, and leave signals to it."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with(parent)


def _end_of(process: BaseProcess) -> str:
    process.join()
    status = process.exitcode or 0
    return f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
