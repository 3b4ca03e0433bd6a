"""The main process of a server with the direct transport: it starts and supervises all other processes.

A worker that dies is restarted. When the HTTP process dies, or the server is told to stop, all processes end.
"""

from __future__ import annotations

import logging
import math
import multiprocessing
import os
import shutil
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from time import monotonic
from typing import Any, NoReturn

import uvicorn
from prometheus_client.multiprocess import mark_process_dead

from litmeter.direct.channel import Channel
from litmeter.direct.forkserver import WORKERS, termination_blocked
from litmeter.direct.http import DirectRoute, DrainingServer, LimitedProtocol
from litmeter.direct.messages import SETUP_FAILED
from litmeter.direct.metrics import RequestTimer
from litmeter.errors import ApiError
from litmeter.system.signals import TERMINATION_SIGNALS, kill_with_parent
from litmeter.system.temporary import folder_of

logger = logging.getLogger(__name__)

MAX_FAILED_STARTS = 3
"""Consecutive failures of a worker before it is ready, after which the server ends."""
SOUND_S = 5.0
"""A worker that dies within this time after it was ready is restarted after a pause."""
MAX_PAUSE_S = 8.0
"""Longest pause before a worker is restarted."""
GRACEFUL_SHUTDOWN_S = 5
"""How long a stopping uvicorn waits for clients to read their answers."""
UNREAD_S = 20
"""After this time the kernel ends a connection whose client reads no answers (tcp(7), TCP_USER_TIMEOUT)."""
EXIT_UNFINISHED = 3
"""Exit status of an HTTP process that left requests unfinished."""
EXIT_GRACE_S = 3.0
"""How long the HTTP process may take to exit after the drain and the graceful shutdown."""


@dataclass(eq=False)
class Worker:
    """A worker: its present process, and its failures. Times are of the monotonic clock, in seconds."""

    index: int
    start_at: float = 0.0  # when the next process is due; infinite while a process runs
    process: BaseProcess = field(init=False)
    ready_at: float | None = None  # when the process had loaded the model
    failed_starts: int = 0  # consecutive processes that were never ready
    early_deaths: int = 0  # consecutive processes that died soon after they were ready


class Supervisor:
    """Starts and supervises the workers and the HTTP process, which serves ``route``.

    Args:
        target: the workers' function; arguments: the worker's index, and a connection for its ready event.
    """

    def __init__(self, target: Callable[..., NoReturn], channel: Channel, route: DirectRoute) -> None:
        self._target = target
        self._channel = channel
        self._route = route
        self._events, self._sender = multiprocessing.Pipe(duplex=False)  # signals and ready workers
        self._workers = [Worker(index) for index in range(route.settings.workers)]
        self._http: BaseProcess | None = None
        self._stop_by = math.inf  # deadline of a stopping HTTP process (monotonic clock, seconds)

    def run(self, **options: Any) -> NoReturn:
        """Serve until SIGTERM or SIGINT, with uvicorn's ``options``; kill all processes at the end.

        Raises:
            SystemExit: always. Status 0: told to stop, and all requests answered; 2: a LitAPI's setup failed
                at the start; 1: anything else.
        """
        for number in TERMINATION_SIGNALS:
            signal.signal(number, lambda number, _: self._sender.send(("signal", number)))
        config = uvicorn.Config(
            RequestTimer(self._route, self._route.path),
            http=partial(LimitedProtocol, route=self._route),  # type: ignore[arg-type]
            ws="none",
            lifespan="off",  # LitServe's lifespan needs LitServe's queues
            timeout_graceful_shutdown=GRACEFUL_SHUTDOWN_S,
            **options,
        )
        listener = config.bind_socket()
        # Connections inherit the option from the listener.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1000 * UNREAD_S)
        try:
            while not any(worker.ready_at for worker in self._workers):
                self._handle_next_event()
            self._http = multiprocessing.get_context("fork").Process(
                target=_serve_http, args=(config, listener, os.getpid(), self._route), name="http"
            )
            with termination_blocked():
                self._http.start()
            listener.close()  # the HTTP process has a copy
            while True:
                self._handle_next_event()
        finally:
            for child in multiprocessing.active_children():
                child.kill()
                child.join()

    def _handle_next_event(self) -> None:
        """Wait for a signal, a ready worker, an exit or a deadline, and handle it; SystemExit ends all."""
        for worker in self._workers:
            if worker.start_at <= monotonic():
                self._start_worker(worker)
        exits = {worker.process.sentinel: worker for worker in self._workers if worker.start_at == math.inf}
        http = [] if self._http is None else [self._http.sentinel]
        due = min(self._stop_by, *(worker.start_at for worker in self._workers))
        events = wait([self._events, *exits, *http], None if due == math.inf else max(0.0, due - monotonic()))
        while self._events.poll():
            kind, number = self._events.recv()
            if kind == "signal":
                self._handle_signal(number)
            else:
                self._workers[number].ready_at = monotonic()
        if self._http is not None and self._http.sentinel in events:
            ended = _describe_exit(self._http)
            if self._stop_by == math.inf or self._http.exitcode not in (0, EXIT_UNFINISHED):
                self._fail(f"the HTTP process {ended}")
            sys.exit(0 if self._http.exitcode == 0 else 1)
        for event in events:
            if event in exits:
                self._on_worker_exit(exits[event])
        if monotonic() >= self._stop_by:
            self._fail("the HTTP process did not stop in time")

    def _start_worker(self, worker: Worker) -> None:
        process = WORKERS.Process(target=self._target, args=(worker.index, self._sender))
        try:
            with termination_blocked():
                process.start()
        except (EOFError, OSError) as error:  # the forkserver has died; multiprocessing starts another
            self._on_failed_start(worker, f"a worker could not be forked ({error!r})")
        else:
            worker.process, worker.ready_at, worker.start_at = process, None, math.inf

    def _handle_signal(self, number: int) -> None:
        if self._http is None:  # no request has been accepted
            sys.exit(0)
        if self._stop_by == math.inf:
            self._stop_by = monotonic() + self._route.settings.drain_s + GRACEFUL_SHUTDOWN_S + EXIT_GRACE_S
            self._http.terminate()
        elif number == signal.SIGINT:  # a second Ctrl-C
            self._fail("interrupted while it stopped")

    def _on_worker_exit(self, worker: Worker) -> None:
        """Schedule a restart, after a pause if the worker died soon after it was ready."""
        ended = f"worker {worker.process.pid} {_describe_exit(worker.process)}"
        mark_process_dead(worker.process.pid)  # type: ignore[no-untyped-call]  # keeps its counters
        self._channel.on_worker_exit(worker.index)
        shutil.rmtree(folder_of(worker.process.pid or 0), ignore_errors=True)
        if worker.ready_at is None:
            if self._http is None and worker.process.exitcode == SETUP_FAILED:
                sys.exit(ApiError.exit_code)
            self._on_failed_start(worker, f"{ended} before it was ready")
            return
        worker.failed_starts = 0
        worker.early_deaths = worker.early_deaths + 1 if monotonic() - worker.ready_at < SOUND_S else 0
        self._start_later(worker, worker.early_deaths, ended)

    def _on_failed_start(self, worker: Worker, reason: str) -> None:
        """Schedule another start; end the server after MAX_FAILED_STARTS, or before any worker was ready."""
        worker.failed_starts += 1
        if self._http is None or worker.failed_starts >= MAX_FAILED_STARTS:
            self._fail(f"{reason}, {worker.failed_starts} in a row")
        self._start_later(worker, worker.failed_starts, reason)

    def _start_later(self, worker: Worker, failures: int, reason: str) -> None:
        """Schedule another start, after a pause that doubles with each consecutive failure."""
        pause_s = min(MAX_PAUSE_S, 2.0 ** (failures - 1)) if failures else 0.0
        worker.start_at = monotonic() + pause_s
        logger.error("%s; another is started%s", reason, f" in {pause_s:g} s" if pause_s else "")

    def _fail(self, reason: str) -> NoReturn:
        logger.critical("%s; the server ends", reason)
        sys.exit(1)


def _serve_http(config: uvicorn.Config, listener: socket.socket, parent: int, route: DirectRoute) -> NoReturn:
    """Run the HTTP process until SIGTERM or the end of the main process.

    SIGTERM stays blocked, and pending, until the process can drain.
    """
    # Uvicorn raises the signal again after it has stopped. SIG_IGN would discard a pending signal.
    signal.signal(signal.SIGTERM, lambda *_: None)
    kill_with_parent(parent)
    DrainingServer(config, route).run([listener])
    sys.exit(EXIT_UNFINISHED if route.dispatcher.unfinished else 0)


def _describe_exit(process: BaseProcess) -> str:
    process.join()
    status = process.exitcode or 0
    return f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
