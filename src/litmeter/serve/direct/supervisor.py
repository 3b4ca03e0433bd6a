"""The main process of a server with the direct transport: it starts and supervises the others.

It replaces the processes of LitServe's server and keeps its app and LitAPI. A worker that dies is restarted.
When the HTTP process dies, or the server is told to stop, all processes end.
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
from time import monotonic
from typing import TYPE_CHECKING, Any, NoReturn

import uvicorn
from starlette.types import ASGIApp

from litmeter.serve.direct.channel import Channel
from litmeter.serve.direct.dispatcher import Dispatcher
from litmeter.serve.direct.worker import run_worker
from litmeter.serve.forkserver import WORKERS
from litmeter.serve.metrics import mark_process_exited
from litmeter.system.signals import TERMINATION_SIGNALS, kill_with_parent

if TYPE_CHECKING:
    from litmeter.serve.classifier import Classifier

logger = logging.getLogger(__name__)

MAX_FAILED_STARTS = 3
"""Consecutive failures of a worker before it is ready, after which the server ends."""
SOUND_S = 5.0
"""A worker that dies sooner after it was ready is started again after a pause."""
MAX_PAUSE_S = 8.0
"""Before a worker is started again."""
GRACEFUL_SHUTDOWN_S = 5
"""How long uvicorn waits for clients to read their answers when the server stops."""
EXIT_UNFINISHED = 3
"""Exit status of an HTTP process that left requests unfinished."""
EXIT_GRACE_S = 3.0
"""How long the HTTP process may take to exit after both."""


@dataclass
class Worker:
    """A worker process.

    Attributes:
        ready: connection on which it reports that it has loaded the model.
        ready_at: when it has reported so (monotonic clock, seconds), None before.
    """

    process: BaseProcess
    ready: Connection
    ready_at: float | None = None


class Supervisor:
    """Starts and supervises the HTTP process and the workers of one classifier.

    Args:
        channel: the channel between the HTTP process and the workers.
        devices: the device of each worker.
        app: served by the HTTP process.
        protocol: factory of uvicorn's protocol for a connection.
        dispatcher: the HTTP process's, which counts unfinished requests.
        drain_s: how long the HTTP process may take to finish the requests in flight.
    """

    def __init__(
        self,
        classifier: Classifier,
        channel: Channel,
        devices: list[str],
        app: ASGIApp,
        protocol: Callable[..., asyncio.Protocol],
        dispatcher: Dispatcher,
        drain_s: float,
    ) -> None:
        self._classifier = classifier
        self._channel = channel
        self._devices = devices
        self._app = app
        self._protocol = protocol
        self._dispatcher = dispatcher
        self._drain_s = drain_s
        self._signal_received, self._signal_sender = multiprocessing.Pipe(duplex=False)
        self._workers: dict[int, Worker] = {}
        self._http: BaseProcess | None = None
        self._stop_requested: float | None = None
        self._failed_starts = [0] * len(devices)
        self._early_deaths = [0] * len(devices)
        self._restarts: dict[int, float] = {}

    def run(self, **options: Any) -> NoReturn:
        """Serve until SIGTERM or SIGINT; kill all processes at the end.

        Args:
            options: uvicorn's: host, port, certificates, log level.

        Raises:
            SystemExit: always: 0 if the server was told to stop and had answered all requests, otherwise 1.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, _: self._signal_sender.send(number))
        config = uvicorn.Config(
            self._app,
            http=self._protocol,  # type: ignore[arg-type]  # uvicorn accepts a factory, too
            ws="none",
            timeout_graceful_shutdown=GRACEFUL_SHUTDOWN_S,
            **options,
        )
        listener = config.bind_socket()
        try:
            for index in range(len(self._devices)):
                self._start_worker(index)
            while not any(worker.ready_at for worker in self._workers.values()):
                self._handle_next_event()
            self._http = self._start_http(config, listener)
            listener.close()  # the HTTP process has a copy
            while True:
                self._handle_next_event()
        finally:
            for child in multiprocessing.active_children():
                child.kill()
                child.join()

    def _start_worker(self, index: int) -> None:
        ready, ready_sender = multiprocessing.Pipe(duplex=False)
        arguments = (self._classifier, self._devices[index], index, self._channel, ready_sender)
        process = WORKERS.Process(target=run_worker, args=arguments, name=f"worker-{index}")
        try:
            _start(process)
        except (EOFError, OSError) as error:  # the forkserver has died; another is started when that is known
            ready.close()
            self._on_failed_start(index, f"a worker could not be forked ({error!r})")
        else:
            self._workers[index] = Worker(process, ready)
        finally:
            ready_sender.close()

    def _start_http(self, config: uvicorn.Config, listener: socket.socket) -> BaseProcess:
        process = multiprocessing.get_context("fork").Process(
            target=_serve_http, args=(config, listener, os.getpid(), self._dispatcher), name="http"
        )
        _start(process)
        return process

    def _handle_next_event(self) -> None:
        """Wait for a signal, a worker that is ready, an exit or a deadline, and handle it.

        Raises:
            SystemExit: the server ends.
        """
        self._restart_due_workers()
        running = {index: worker for index, worker in self._workers.items() if index not in self._restarts}
        exits = {worker.process.sentinel: index for index, worker in running.items()}
        starts = {worker.ready: worker for worker in running.values() if worker.ready_at is None}
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
                starts[event].ready_at = monotonic() if _reports_ready(starts[event].ready) else None
        for event in events:
            if event in exits:
                self._on_worker_exit(exits[event])
        if self._overdue_s() >= 0:
            self._fail("the HTTP process did not stop in time")

    def _overdue_s(self) -> float:
        """Seconds since the HTTP process should have exited; negative before that."""
        if self._stop_requested is None:
            return float("-inf")
        return monotonic() - self._stop_requested - self._drain_s - GRACEFUL_SHUTDOWN_S - EXIT_GRACE_S

    def _wait_s(self) -> float | None:
        """Seconds until the next restart is due or the HTTP process is overdue; None without either."""
        waits_s = [due - monotonic() for due in self._restarts.values()]
        waits_s += [] if self._stop_requested is None else [-self._overdue_s()]
        return max(0.0, min(waits_s)) if waits_s else None

    def _handle_signal(self, number: int) -> None:
        if self._http is None:  # no request has been accepted yet
            sys.exit(0)
        if self._stop_requested is None:
            self._stop_requested = monotonic()
            self._http.terminate()
        elif number == signal.SIGINT:  # a second Ctrl-C
            self._fail("interrupted while it stopped")

    def _on_http_exit(self, process: BaseProcess) -> None:
        process.join()
        if self._stop_requested is None or process.exitcode not in (0, EXIT_UNFINISHED):
            self._fail(f"the HTTP process {_describe_exit(process)}")
        sys.exit(0 if process.exitcode == 0 else 1)

    def _on_worker_exit(self, index: int) -> None:
        """Schedule the restart of a worker that has died, after a pause if that was soon after its start."""
        worker = self._workers[index]
        worker.process.join()
        worker.ready.close()
        mark_process_exited(worker.process.pid)
        self._channel.on_worker_exit(index)
        ended = f"worker {worker.process.pid} {_describe_exit(worker.process)}"
        if worker.ready_at is None:
            self._on_failed_start(index, f"{ended} before it was ready")
            return
        self._failed_starts[index] = 0
        is_early = monotonic() - worker.ready_at < SOUND_S
        self._early_deaths[index] = self._early_deaths[index] + 1 if is_early else 0
        self._restart_later(index, self._early_deaths[index], ended)

    def _on_failed_start(self, index: int, reason: str) -> None:
        """Schedule another start after a pause; end the server if none succeeds."""
        self._failed_starts[index] += 1
        if self._http is None or self._failed_starts[index] >= MAX_FAILED_STARTS:
            self._fail(f"{reason}, {self._failed_starts[index]} in a row")
        self._restart_later(index, self._failed_starts[index], reason)

    def _restart_later(self, index: int, failures: int, reason: str) -> None:
        """Schedule another start, after a pause that doubles with each of its consecutive ``failures``."""
        pause_s = min(MAX_PAUSE_S, 2.0 ** (failures - 1)) if failures else 0.0
        self._restarts[index] = monotonic() + pause_s
        logger.error("%s; another is started%s", reason, f" in {pause_s:g} s" if pause_s else "")

    def _restart_due_workers(self) -> None:
        for index, due in list(self._restarts.items()):
            if due <= monotonic():
                del self._restarts[index]
                self._start_worker(index)

    def _fail(self, reason: str) -> NoReturn:
        logger.critical("%s; the server ends", reason)
        sys.exit(1)


def _start(process: BaseProcess) -> None:
    """Start a process with SIGTERM and SIGINT blocked, as it inherits the signal mask.

    A terminal or a service manager signals all processes at once; only the main process decides what to do.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, TERMINATION_SIGNALS)
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, TERMINATION_SIGNALS)


def _serve_http(
    config: uvicorn.Config, listener: socket.socket, parent: int, dispatcher: Dispatcher
) -> NoReturn:
    """Run the HTTP process until SIGTERM or the end of the main process.

    SIGTERM stays blocked until the process can drain; an earlier one is pending until then.
    """
    # Uvicorn raises the signal again once it has stopped. SIG_IGN would discard a pending one.
    signal.signal(signal.SIGTERM, lambda *_: None)
    kill_with_parent(parent)
    uvicorn.Server(config).run([listener])
    sys.exit(EXIT_UNFINISHED if dispatcher.unfinished else 0)


def _reports_ready(ready: Connection) -> bool:
    """Whether the worker has reported that it is ready; False if it has closed the connection by exiting."""
    try:
        ready.recv()
    except EOFError:
        return False
    return True


def _describe_exit(process: BaseProcess) -> str:
    process.join()
    status = process.exitcode or 0
    return f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
