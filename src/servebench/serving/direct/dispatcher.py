"""The HTTP process's side: hands requests to the workers and their answers back to who asked."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from time import perf_counter

from servebench.serving.direct.channel import HELLO, Answer, Channel, Request
from servebench.serving.direct.tickets import NOBODY
from servebench.serving.refusals import refusal

SWEEP_S = 0.1
"""Between two looks for requests that have waited too long, while there are any."""

Reply = tuple[int, bytes]
"""HTTP status and JSON body."""


@dataclass(frozen=True, slots=True)
class Pending:
    """A request that has not been answered yet."""

    received: float
    reply: asyncio.Future[Reply]


class Dispatcher:
    """Belongs to the event loop that first asks it something.

    Args:
        timeout_s: how long a request may wait for a worker; once one has it, it is finished.
    """

    def __init__(self, channel: Channel, timeout_s: float) -> None:
        self._channel = channel
        self._timeout_s = timeout_s
        self._pending: dict[int, Pending] = {}
        self._unsent: deque[Request] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._sweeping = False

    async def ask(self, is_image: bool, body: bytes) -> Reply:
        """Have a request answered: 503 when too many are under way, 504 when it waited too long."""
        loop = self._loop or self._start()
        ticket = self._channel.tickets.issue()
        if ticket is None:
            return refused(503, "the server is full; try again later")
        request = Request(ticket, is_image, perf_counter(), body)
        pending = Pending(request.received, loop.create_future())
        self._pending[ticket] = pending
        try:
            self._send(request)
            if not self._sweeping:
                self._sweeping = True
                loop.call_later(SWEEP_S, self._sweep)
            return await pending.reply
        finally:
            del self._pending[ticket]
            self._channel.tickets.withdraw(ticket)

    def _start(self) -> asyncio.AbstractEventLoop:
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._channel.answers_out, self._read_answers)
        return self._loop

    def _send(self, request: Request) -> None:
        if self._unsent:
            self._unsent.append(request)
            return
        try:
            self._channel.send_request(request)
        except BlockingIOError:
            self._unsent.append(request)
            assert self._loop is not None
            self._loop.add_writer(self._channel.requests_in, self._send_more)

    def _send_more(self) -> None:
        """The kernel has room again."""
        while self._unsent:
            if self._unsent[0].ticket in self._pending:
                try:
                    self._channel.send_request(self._unsent[0])
                except BlockingIOError:
                    return
            self._unsent.popleft()
        assert self._loop is not None
        self._loop.remove_writer(self._channel.requests_in)

    def _read_answers(self) -> None:
        with suppress(BlockingIOError):
            while True:
                for answer in self._channel.receive_answers():
                    if answer.ticket == HELLO:
                        self._watch(answer)
                    else:
                        self._resolve(answer.ticket, (answer.status, answer.body))

    def _resolve(self, ticket: int, reply: Reply) -> None:
        # Who asked may be gone, or have been told already.
        pending = self._pending.get(ticket)
        if pending is not None and not pending.reply.done():
            pending.reply.set_result(reply)

    def _watch(self, hello: Answer) -> None:
        """Notice when a worker dies: the descriptor of a process becomes readable at its end."""
        assert self._loop is not None
        worker = hello.status
        try:
            descriptor = os.pidfd_open(worker)
        except ProcessLookupError:
            self._bury(worker)
            return
        self._loop.add_reader(descriptor, self._on_exit, worker, descriptor)

    def _on_exit(self, worker: int, descriptor: int) -> None:
        assert self._loop is not None
        self._loop.remove_reader(descriptor)
        os.close(descriptor)
        self._read_answers()  # what it sent before it died counts
        self._bury(worker)

    def _bury(self, worker: int) -> None:
        for ticket in list(self._pending):
            if self._channel.tickets.taken_by(ticket) == worker:
                self._resolve(ticket, refused(503, "the worker that had this request died"))

    def _sweep(self) -> None:
        """Answer what has waited too long; the oldest request comes first."""
        oldest = perf_counter() - self._timeout_s
        for ticket, pending in self._pending.items():
            if pending.received > oldest:
                break
            if self._channel.tickets.taken_by(ticket) == NOBODY:
                waited = f"no worker was free within {self._timeout_s:g} s"
                self._resolve(ticket, refused(504, waited))
        self._sweeping = bool(self._pending)
        if self._sweeping:
            assert self._loop is not None
            self._loop.call_later(SWEEP_S, self._sweep)


def refused(status: int, reason: str) -> Reply:
    """A reply in the form of every other refusal."""
    return status, bytes(refusal(status, reason).body)
