"""The main process of a server with the direct transport: it starts the others, and leaves none behind.

It stands beside LitServe's server rather than in it: LitServe makes the app and defines the LitAPI, and the
processes are ours. A worker that dies comes back; when the HTTP process dies, or the server is told to stop,
all end.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from multiprocessing.resource_tracker import ensure_running
from time import monotonic
from typing import TYPE_CHECKING, Any, NoReturn

import uvicorn
from starlette.types import ASGIApp

from servebench.serving.direct.channel import Channel
from servebench.serving.direct.dispatcher import Dispatcher
from servebench.serving.direct.worker import run_worker
from servebench.serving.metrics import forget_process
from servebench.system.signals import TERMINATION_SIGNALS, kill_with_parent

if TYPE_CHECKING:
    from servebench.serving.api import ClassifierAPI

logger = logging.getLogger(__name__)

MAX_FAILED_STARTS = 3
"""A worker that fails so often in a row, before it is ready, ends the server."""
READ_ANSWERS_S = 5
"""How long clients may take to read their answers when the server stops."""
UNFINISHED = 3
"""Exit status of an HTTP process that had to leave requests unfinished."""
EXIT_S = 3.0
"""How long the HTTP process may take beyond that to end by itself."""


@dataclass
class Worker:
    """A worker process, and whether it has loaded the model yet."""

    process: BaseProcess
    ready: Connection
    is_ready: bool = False


class Supervisor:
    """Serves one LitAPI; ``run`` ends by SystemExit, with 0 if it was told to stop and all was finished.

    Args:
        channel: between the HTTP process and the workers.
        devices: of the workers, one each.
        app: what the HTTP process serves.
        protocol: makes uvicorn's protocol of a connection.
        dispatcher: of the HTTP process; it knows whether all was finished.
        drain_s: how long the HTTP process may take to finish what it has accepted.
    """

    def __init__(
        self,
        api: ClassifierAPI,
        channel: Channel,
        devices: list[str],
        app: ASGIApp,
        protocol: Callable[..., asyncio.Protocol],
        dispatcher: Dispatcher,
        drain_s: float,
    ) -> None:
        self._api = api
        self._channel = channel
        self._devices = devices
        self._app = app
        self._protocol = protocol
        self._dispatcher = dispatcher
        self._drain_s = drain_s
        self._spawn = multiprocessing.get_context("spawn")
        self._signal_received, self._signal_sender = multiprocessing.Pipe(duplex=False)
        self._workers: dict[int, Worker] = {}
        self._http: BaseProcess | None = None
        self._stop_requested: float | None = None
        self._failed_starts = [0] * len(devices)
        self._restarts: dict[int, float] = {}

    def run(self, **options: Any) -> NoReturn:
        """Serve until told to stop; whatever happens, no process is left.

        Args:
            options: uvicorn's: host, port, certificates, log level.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, _: self._signal_sender.send(number))
        config = uvicorn.Config(
            self._app,
            http=self._protocol,  # type: ignore[arg-type]  # a factory serves as well as a class
            ws="none",
            timeout_graceful_shutdown=READ_ANSWERS_S,
            **options,
        )
        listener = config.bind_socket()
        ensure_running()  # the first spawned process would start it, which unblocks signals
        try:
            for place in range(len(self._devices)):
                self._start_worker(place)
            while not any(worker.is_ready for worker in self._workers.values()):
                self._handle_next_event()
            self._http = self._start_http(config, listener)
            listener.close()  # the HTTP process has its own
            while True:
                self._handle_next_event()
        finally:
            for child in multiprocessing.active_children():
                child.kill()
                child.join()

    def _start_worker(self, place: int) -> None:
        ready, tell_ready = self._spawn.Pipe(duplex=False)
        arguments = (self._api, self._devices[place], place, self._channel, tell_ready)
        process = self._spawn.Process(target=run_worker, args=arguments, name=f"worker-{place}")
        _start(process)
        tell_ready.close()
        self._workers[place] = Worker(process, ready)

    def _start_http(self, config: uvicorn.Config, listener: socket.socket) -> BaseProcess:
        process = multiprocessing.get_context("fork").Process(
            target=_serve_http, args=(config, listener, os.getpid(), self._dispatcher), name="http"
        )
        _start(process)
        return process

    def _handle_next_event(self) -> None:
        """Wait until something happens; deal with it.

        Raises:
            SystemExit: the server shall end.
        """
        self._restart_due_workers()
        running = {p: worker for p, worker in self._workers.items() if p not in self._restarts}
        exits = {worker.process.sentinel: place for place, worker in running.items()}
        starts = {worker.ready: worker for worker in running.values() if not worker.is_ready}
        watched: list[Connection | int] = [self._signal_received, *exits, *starts]
        if self._http is not None:
            watched.append(self._http.sentinel)
        events = wait(watched, self._wait_s())
        if self._signal_received in events:
            self._handle_signal(self._signal_received.recv())
        if self._http is not None and self._http.sentinel in events:
            self._on_http_exit(self._http)
        for event in events:
            if event in starts:
                starts[event].is_ready = _received(starts[event].ready)
        for event in events:
            if event in exits:
                self._on_worker_exit(exits[event])
        if self._overdue_s() >= 0:
            self._fail("the HTTP process did not stop in time")

    def _overdue_s(self) -> float:
        """For how long the HTTP process should have stopped by itself."""
        if self._stop_requested is None:
            return float("-inf")
        return monotonic() - self._stop_requested - self._drain_s - READ_ANSWERS_S - EXIT_S

    def _wait_s(self) -> float | None:
        """Until the next restart is due or the HTTP process is overdue; None where nothing is."""
        limits = [moment - monotonic() for moment in self._restarts.values()]
        limits += [] if self._stop_requested is None else [-self._overdue_s()]
        return max(0.0, min(limits)) if limits else None

    def _handle_signal(self, number: int) -> None:
        if self._http is None:  # nothing has been accepted yet
            sys.exit(0)
        if self._stop_requested is None:
            self._stop_requested = monotonic()
            self._http.terminate()
        elif number == signal.SIGINT:  # a second Ctrl-C
            self._fail("interrupted while it stopped")

    def _on_http_exit(self, process: BaseProcess) -> None:
        process.join()
        if self._stop_requested is None or process.exitcode not in (0, UNFINISHED):
            self._fail(f"the HTTP process {_exit_of(process)}")
        sys.exit(0 if process.exitcode == 0 else 1)

    def _on_worker_exit(self, place: int) -> None:
        """Note that a worker has died, and when its successor shall start."""
        worker = self._workers[place]
        worker.process.join()
        worker.ready.close()
        forget_process(worker.process.pid)
        self._channel.on_worker_exit(place)
        ended = f"worker {worker.process.pid} {_exit_of(worker.process)}"
        if worker.is_ready:
            self._failed_starts[place] = 0
            self._restarts[place] = monotonic()
            logger.error("%s; another is started", ended)
            return
        self._failed_starts[place] += 1
        if self._http is None or self._failed_starts[place] >= MAX_FAILED_STARTS:
            self._fail(f"{ended} before it was ready, {self._failed_starts[place]} in a row")
        pause_s = 2.0 ** (self._failed_starts[place] - 1)
        self._restarts[place] = monotonic() + pause_s
        logger.error("%s before it was ready; another is started in %g s", ended, pause_s)

    def _restart_due_workers(self) -> None:
        for place, moment in list(self._restarts.items()):
            if moment <= monotonic():
                del self._restarts[place]
                self._start_worker(place)

    def _fail(self, reason: str) -> NoReturn:
        logger.critical("%s; the server ends", reason)
        sys.exit(1)


def _start(process: BaseProcess) -> None:
    """Start a process that never sees SIGTERM and SIGINT, unless it unblocks them: it inherits the mask.

    A terminal, or who stops a whole service, signals every process; what that means is for this one to say.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, TERMINATION_SIGNALS)
    process.start()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, TERMINATION_SIGNALS)


def _serve_http(
    config: uvicorn.Config, listener: socket.socket, parent: int, dispatcher: Dispatcher
) -> NoReturn:
    """The HTTP process: it lives as long as the main process, and stops when that one tells it to.

    It unblocks SIGTERM when it can drain: one that has come before waits until then.
    """
    # Uvicorn raises the signal again once it has stopped. SIG_IGN would forget one that waits already.
    signal.signal(signal.SIGTERM, lambda *_: None)
    kill_with_parent(parent)
    uvicorn.Server(config).run([listener])
    sys.exit(UNFINISHED if dispatcher.unfinished else 0)


def _received(ready: Connection) -> bool:
    """Whether the worker has said that it is ready, rather than closed its end by dying."""
    try:
        ready.recv()
    except EOFError:
        return False
    return True


def _exit_of(process: BaseProcess) -> str:
    process.join()
    status = process.exitcode or 0
    return f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
