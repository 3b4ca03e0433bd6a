"""The dispatcher: sends requests from the HTTP process to the workers, and watches these."""

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
from litmeter.direct.messages import Reply, Request, error_reply
from litmeter.direct.metrics import KILLED_WORKERS
from litmeter.direct.settings import WorkerSettings

logger = logging.getLogger(__name__)

SWEEP_INTERVAL_S = 0.1
"""Interval of the checks for requests that have timed out and workers that hang."""

STOPPING = error_reply(503, "the server is stopping")
WORKER_DIED = error_reply(503, "the worker that had this request died")
OUT_OF_RESOURCES = error_reply(503, "no memory or file handle left for this request; try again later")
CLIENT_CLOSED_REQUEST = Reply(499, b"")
"""Status that the metrics count where a client has closed its connection (nginx's 499); it is never sent."""


@dataclass(slots=True)
class Pending:
    """A request that has not been answered yet."""

    received: float  # when its whole body had been read (monotonic clock, seconds)
    answer: asyncio.Future[Reply]
    claimed_s: float = 0.0  # how long a worker has had it


class Dispatcher:
    """Dispatches requests; all methods are called in the event loop in which it was started.

    Args:
        settings: a worker that has had a request for longer than ``worker_timeout_s`` hangs: it is killed,
            and its supervisor starts another. Time in which this process was stopped does not count.
        timeout_s: how long a request may wait until a worker claims it.

    Attributes:
        slots: of the requests in flight; one is acquired before a request's body is read.
        stopping: whether the server drains: no further request is admitted.
        unfinished: number of admitted requests that were not answered within the drain time.
    """

    def __init__(self, channel: Channel, settings: WorkerSettings, timeout_s: float) -> None:
        self.slots = channel.slots
        self._channel = channel
        self._timeout_s = timeout_s
        self._worker_timeout_s = settings.worker_timeout_s
        self._expected_workers = settings.workers_per_device
        self._live_workers: set[int] = set()
        self._started = False
        self._pending: dict[int, Pending] = {}  # in order of arrival
        self._unsent: dict[int, Request] = {}
        self._last_sweep = 0.0
        self.stopping = False
        self.unfinished = 0

    def start(self) -> None:
        """Start to read the workers' replies, and to sweep, in the running event loop."""
        asyncio.get_running_loop().add_reader(self._channel.reply_receiver, self._read_replies)
        self._sweep()

    def is_full(self) -> bool:
        """Whether all slots are in use, after the replies that have come have been read.

        Under overload the event loop comes to read them once it has been through hundreds of connections:
        until then workers would have nothing to do.
        """
        if self.slots.full:
            self._read_replies()
        return self.slots.full

    def release(self, slot: int) -> None:
        """Free the slot of a request that has been answered, or is abandoned."""
        self._pending.pop(slot, None)
        self._unsent.pop(slot, None)
        self.slots.release(slot)

    def health(self, is_healthy: bool = True) -> Reply:
        """The answer to ``GET /health``: 200 while requests are answered, otherwise 503.

        A starting server is not ready before all of its workers are; later, one worker is enough.

        Args:
            is_healthy: what the server itself says.
        """
        live, expected = len(self._live_workers), self._expected_workers
        troubles = {
            "stopping": self.stopping,
            "starting": not self._started,
            "down": not live,
            "unhealthy": not is_healthy,
        }
        trouble = next((state for state, is_so in troubles.items() if is_so), None)
        state = trouble or ("ok" if live == expected else "degraded")
        body = {"status": state, "workers": live, "expected": expected}
        return Reply(503 if trouble else 200, json.dumps(body).encode())

    async def submit(self, slot: int, content_type: bytes, body: bytes, receive: Receive) -> Reply:
        """Send an admitted request to the workers; return its answer, 504 if no worker claims it in time.

        Args:
            receive: ASGI's, of the client's connection: a disconnect ends the wait.
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
        while self.slots.in_flight and perf_counter() < deadline:
            await asyncio.sleep(SWEEP_INTERVAL_S / 5)
        self.unfinished = self.slots.in_flight
        for slot in [*self._pending]:
            self._respond(slot, STOPPING)

    def _send_unsent(self) -> None:
        """Called when the socket's buffer has room again."""
        for slot, request in [*self._unsent.items()]:
            if not self._try_send(request):
                return
            self._unsent.pop(slot, None)
        asyncio.get_running_loop().remove_writer(self._channel.request_sender)

    def _try_send(self, request: Request) -> bool:
        """Send a request, or answer it with 503 on an error; False where the socket's buffer is full."""
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
        """Answer a request, unless it has been answered."""
        pending = self._pending.get(slot)
        self.release(slot)
        if pending is not None and not pending.answer.done():
            pending.answer.set_result(reply)

    def watch_worker(self, worker: int) -> None:
        """Watch the pidfd of the worker with process id ``worker``, which is readable when it exits."""
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
        self._read_replies()  # those that it sent before it died are valid
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
        """Answer the requests that have timed out, and kill workers that hang; called again and again."""
        now = perf_counter()
        # A process that was stopped (SIGSTOP) for a minute has not waited for its workers for a minute.
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
