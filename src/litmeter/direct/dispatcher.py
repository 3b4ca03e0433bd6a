"""The dispatcher: sends requests from the HTTP process to the workers, and watches the workers."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
from contextlib import suppress
from dataclasses import dataclass
from time import perf_counter

from starlette.types import Receive

from litmeter.direct.channel import REGISTRATION, UNCLAIMED, Channel
from litmeter.direct.messages import OUT_OF_RESOURCES, Reply, Request, error_reply
from litmeter.direct.metrics import KILLED_WORKERS
from litmeter.direct.settings import WorkerSettings

logger = logging.getLogger(__name__)

SWEEP_INTERVAL_S = 0.1
"""Interval of the checks for timed-out requests and hung workers."""

STOPPING = error_reply(503, "the server is stopping")
WORKER_DIED = error_reply(503, "the worker that had this request died")
CLIENT_CLOSED_REQUEST = Reply(499, b"")
"""Counted by the metrics when a client closes its connection (nginx's 499); never sent."""


@dataclass(slots=True)
class Pending:
    """A request without an answer so far."""

    received: float  # when the whole body had been read (monotonic clock, seconds)
    answer: asyncio.Future[Reply]
    claimed_s: float = 0.0  # how long a worker has had the request


class Dispatcher:
    """Dispatches requests; all methods run in the event loop that called ``start``.

    Args:
        settings: a worker that has had a request for longer than ``worker_timeout_s`` is killed, and the
            supervisor starts another. Time during which this process was stopped does not count.
        timeout_s: how long a request may wait for a worker.

    Attributes:
        slots: of the requests whose body has come.
        admitted: number of admitted requests without an answer, whether or not their body has come.
        stopping: the server drains and admits no request.
        unfinished: number of admitted requests left without an answer by the end of the drain time.
    """

    def __init__(self, channel: Channel, settings: WorkerSettings, timeout_s: float) -> None:
        self.slots = channel.slots
        self._channel = channel
        self._timeout_s = timeout_s
        self._worker_timeout_s = settings.worker_timeout_s
        self._expected_workers = settings.workers
        self._live_workers: set[int] = set()
        self._started = False
        self._pending: dict[int, Pending] = {}  # in order of arrival
        self._unsent: dict[int, Request] = {}
        self._last_sweep = 0.0
        self.stopping = False
        self.admitted = 0
        self.unfinished = 0

    def start(self) -> None:
        """Start to read replies and to sweep, in the running event loop."""
        asyncio.get_running_loop().add_reader(self._channel.reply_receiver, self._read_replies)
        self._sweep()

    def is_full(self) -> bool:
        """Whether all slots are in use once the waiting replies have been read.

        Under overload the event loop serves hundreds of connections before it reads replies: meanwhile the
        workers would have nothing to do.
        """
        if not self.slots.free:
            self._read_replies()
        return not self.slots.free

    def release(self, slot: int) -> None:
        """Free the slot of a request that is answered or abandoned."""
        self._pending.pop(slot, None)
        self._unsent.pop(slot, None)
        self.slots.release(slot)

    def health(self, is_healthy: bool = True) -> Reply:
        """The answer to ``GET /health``: 200 while requests are answered, otherwise 503.

        A starting server is ready once all workers are; afterwards one live worker is enough.

        Args:
            is_healthy: the verdict of the application's health check.
        """
        live, expected = len(self._live_workers), self._expected_workers
        states = {
            "stopping": self.stopping,
            "starting": not self._started,
            "down": not live,
            "unhealthy": not is_healthy,
            "degraded": live != expected,
            "ok": True,
        }
        state = next(state for state, holds in states.items() if holds)
        body = {"status": state, "workers": live, "expected": expected}
        return Reply(200 if state in ("degraded", "ok") else 503, json.dumps(body).encode())

    async def submit(self, slot: int, content_type: bytes, body: bytes, receive: Receive) -> Reply:
        """Send an admitted request to the workers; return the answer, 504 if no worker claims it in time.

        Args:
            receive: the connection's ASGI ``receive``; a disconnect ends the wait.
        """
        loop = asyncio.get_running_loop()
        request = Request(slot, content_type, perf_counter(), body)
        pending = self._pending[slot] = Pending(request.received, loop.create_future())
        if self._unsent or not self._try_send(request):
            self._unsent[slot] = request
            loop.add_writer(self._channel.request_sender, self._send_unsent)

        async def answer_on_disconnect() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            self._respond(slot, CLIENT_CLOSED_REQUEST)

        watch = loop.create_task(answer_on_disconnect())
        try:
            return await pending.answer
        finally:
            watch.cancel()

    async def drain(self, seconds: float) -> None:
        """Admit no more requests; wait up to ``seconds`` for those in flight, and refuse the rest."""
        self.stopping = True
        deadline = perf_counter() + seconds
        while self.admitted and perf_counter() < deadline:
            await asyncio.sleep(SWEEP_INTERVAL_S / 5)
        self.unfinished = self.admitted
        for slot in [*self._pending]:
            self._respond(slot, STOPPING)

    def _send_unsent(self) -> None:
        """Called when the socket's buffer has room."""
        for slot, request in [*self._unsent.items()]:
            if not self._try_send(request):
                return
            self._unsent.pop(slot, None)
        asyncio.get_running_loop().remove_writer(self._channel.request_sender)

    def _try_send(self, request: Request) -> bool:
        """Send a request, or answer it with 503 on an error; False if the socket's buffer is full."""
        try:
            self._channel.send_request(request)
        except BlockingIOError:
            return False
        except OSError as error:  # no descriptor or memory for a large body
            logger.error("a request could not be handed to the workers: %s", error)
            self._respond(request.slot, OUT_OF_RESOURCES)
        return True

    def _read_replies(self) -> None:
        with suppress(BlockingIOError):
            while True:
                for slot, reply in self._channel.receive_replies().items():
                    if slot == REGISTRATION:
                        self.watch_worker(reply.status)
                    else:
                        self._respond(slot, reply)

    def _respond(self, slot: int, reply: Reply) -> None:
        """Answer a request that has no answer so far."""
        pending = self._pending.get(slot)
        self.release(slot)
        if pending is not None and not pending.answer.done():
            pending.answer.set_result(reply)

    def watch_worker(self, worker: int) -> None:
        """Watch a worker's pidfd, which becomes readable when the worker exits."""
        try:
            pidfd = os.pidfd_open(worker)
        except ProcessLookupError:
            self._on_worker_exit(worker)
            return
        self._live_workers.add(worker)
        self._started = self._started or len(self._live_workers) == self._expected_workers
        asyncio.get_running_loop().add_reader(pidfd, self._on_worker_exit, worker, pidfd)

    def _on_worker_exit(self, worker: int, pidfd: int | None = None) -> None:
        if pidfd is not None:
            asyncio.get_running_loop().remove_reader(pidfd)
            os.close(pidfd)
        self._live_workers.discard(worker)
        self._read_replies()  # the worker's last replies are valid
        for slot in [*self._pending]:
            if self.slots.claimed_by(slot) == worker:
                self._respond(slot, WORKER_DIED)

    def _kill_hung(self, worker: int) -> None:
        self._live_workers.discard(worker)
        limit_s = self._worker_timeout_s
        logger.error("worker %d had a batch for over %g s: it hangs, and is killed", worker, limit_s)
        KILLED_WORKERS.inc()
        with suppress(ProcessLookupError):
            os.kill(worker, signal.SIGKILL)

    def _sweep(self) -> None:
        """Answer timed-out requests and kill hung workers, every SWEEP_INTERVAL_S."""
        now = perf_counter()
        # Time during which this process was stopped (SIGSTOP) is not time spent waiting for workers.
        passed_s = min(now - self._last_sweep, 2 * SWEEP_INTERVAL_S)
        self._last_sweep = now
        for slot, pending in [*self._pending.items()]:
            if now - pending.received < SWEEP_INTERVAL_S:
                break
            if (worker := self.slots.claimed_by(slot)) != UNCLAIMED:
                pending.claimed_s += passed_s
                if pending.claimed_s > self._worker_timeout_s and worker in self._live_workers:
                    self._kill_hung(worker)
            elif now - pending.received > self._timeout_s:
                self._respond(slot, error_reply(504, f"no worker was free within {self._timeout_s:g} s"))
        asyncio.get_running_loop().call_later(SWEEP_INTERVAL_S, self._sweep)
