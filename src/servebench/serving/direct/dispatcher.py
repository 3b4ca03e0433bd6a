"""The HTTP process's side: hands requests to the workers and their answers back to who asked."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from time import perf_counter

from starlette.types import Receive

from servebench.serving.direct.channel import HELLO, Channel, Request
from servebench.serving.direct.tickets import NOBODY
from servebench.serving.direct.workers import Reply, Workers
from servebench.serving.refusals import refusal

logger = logging.getLogger(__name__)

SWEEP_S = 0.1
"""Between two looks at the requests that wait, while there are any."""


def refused(status: int, reason: str) -> Reply:
    """A reply in the form of every other refusal."""
    return status, bytes(refusal(status, reason).body)


FULL = refused(503, "the server is full; try again later")
STOPPING = refused(503, "the server is stopping")
DIED = refused(503, "the worker that had this request died")
OVERLOADED = refused(503, "no memory or file handle left for this request; try again later")
GONE = 499, b""
"""Nobody reads this; in the metrics it has the status that nginx gives to it."""


Answer = Callable[[Reply], None]
"""How a request is answered; called once, in the event loop."""


@dataclass(frozen=True, slots=True)
class Pending:
    """A request that has not been answered yet."""

    received: float
    answer: Answer


class Dispatcher:
    """Belongs to the event loop that runs when it is started.

    Args:
        timeout_s: how long a request may wait for a worker; once one has it, it is finished.
        workers: how many there shall be.
    """

    def __init__(self, channel: Channel, timeout_s: float, workers: int) -> None:
        self._channel = channel
        self._timeout_s = timeout_s
        self._workers = Workers(workers, self._bury)
        self._pending: dict[int, Pending] = {}
        self._unsent: dict[int, Request] = {}
        self._sweeping = False
        self._last_answered = self._last_death = 0.0
        self.stopping = False

    def start(self) -> None:
        """Listen to the workers."""
        asyncio.get_running_loop().add_reader(self._channel.answers_out, self._read_answers)

    def turn_away(self) -> Reply | None:
        """What a request is told before any more is done for it; None where ``admit`` shall decide."""
        return FULL if self._channel.tickets.full and not self.stopping else None

    def admit(self) -> int | None:
        """A place for a request, before its body is read; None where there is none: ``why_not``."""
        return None if self.stopping else self._channel.tickets.issue()

    def why_not(self) -> Reply:
        """What those are told that are not admitted."""
        return STOPPING if self.stopping else FULL

    def release(self, ticket: int) -> None:
        """Give a place back, once for each that was given; what has not been answered never will be."""
        self._pending.pop(ticket, None)
        self._unsent.pop(ticket, None)
        self._channel.tickets.withdraw(ticket)

    def health(self) -> Reply:
        """What a load balancer is told."""
        return self._workers.health(self.stopping)

    def submit(self, ticket: int, is_image: bool, body: bytes, answer: Answer) -> None:
        """Have an admitted request answered: with 504 when it waited too long."""
        request = Request(ticket, is_image, perf_counter(), body)
        self._pending[ticket] = Pending(request.received, answer)
        self._send(request)
        if not self._sweeping:
            self._sweeping = True
            asyncio.get_running_loop().call_later(SWEEP_S, self._sweep)

    async def ask(self, ticket: int, is_image: bool, body: bytes, receive: Receive) -> Reply:
        """The answer to an admitted request.

        Args:
            receive: of the client's connection; where it goes away, no worker works for it.
        """
        loop = asyncio.get_running_loop()
        reply: asyncio.Future[Reply] = loop.create_future()

        def resolve(found: Reply) -> None:
            if not reply.done():
                reply.set_result(found)

        async def resolve_when_gone() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            resolve(GONE)

        self.submit(ticket, is_image, body, resolve)
        watch = loop.create_task(resolve_when_gone())
        try:
            return await reply
        finally:
            watch.cancel()

    async def drain(self, seconds: float) -> int:
        """Admit nothing more, and wait for what has been; the number that is left when the time is up."""
        self.stopping = True
        ends = perf_counter() + seconds
        while self._channel.tickets.under_way and perf_counter() < ends:
            await asyncio.sleep(SWEEP_S / 5)
        left = self._channel.tickets.under_way
        for ticket in [*self._pending]:
            self._answer(ticket, STOPPING)
        return left

    def _send(self, request: Request) -> None:
        if self._unsent or not self._sent(request):
            self._unsent[request.ticket] = request
            asyncio.get_running_loop().add_writer(self._channel.requests_in, self._send_more)

    def _send_more(self) -> None:
        """The kernel has room again."""
        for request in [*self._unsent.values()]:
            if not self._sent(request):
                return
            self._unsent.pop(request.ticket, None)
        asyncio.get_running_loop().remove_writer(self._channel.requests_in)

    def _sent(self, request: Request) -> bool:
        """Hand a request over, or refuse it where that cannot be done; False where the kernel is full."""
        try:
            self._channel.send_request(request)
        except BlockingIOError:
            return False
        except OSError as error:  # no descriptor or memory for a large body
            logger.error("a request could not be handed to the workers: %s", error)
            self._answer(request.ticket, OVERLOADED)
        return True

    def _read_answers(self) -> None:
        with suppress(BlockingIOError):
            while True:
                for answer in self._channel.receive_answers():
                    if answer.ticket == HELLO:
                        self._workers.greet(answer.status)
                    elif (pending := self._pending.get(answer.ticket)) is not None:
                        self._last_answered = max(self._last_answered, pending.received)
                        self._answer(answer.ticket, (answer.status, answer.body))

    def _answer(self, ticket: int, reply: Reply) -> None:
        self._unsent.pop(ticket, None)
        self._pending.pop(ticket).answer(reply)

    def _bury(self, worker: int) -> None:
        self._read_answers()  # what it sent before it died counts
        self._last_death = perf_counter()
        for ticket in [*self._pending]:
            if self._channel.tickets.taken_by(ticket) == worker:
                self._answer(ticket, DIED)

    def _sweep(self) -> None:
        """Look after what has waited for a while; the oldest request comes first."""
        now = perf_counter()
        # Requests are taken in the order of their coming: one that was passed over by a later one was
        # lost between a worker's hands as it died.
        lost_before = min(self._last_death, self._last_answered)
        for ticket, pending in [*self._pending.items()]:
            if now - pending.received < SWEEP_S:
                break
            if self._channel.tickets.taken_by(ticket) != NOBODY:
                continue
            if pending.received < lost_before:
                self._answer(ticket, DIED)
            elif now - pending.received > self._timeout_s:
                self._answer(ticket, refused(504, f"no worker was free within {self._timeout_s:g} s"))
        self._sweeping = bool(self._pending)
        if self._sweeping:
            asyncio.get_running_loop().call_later(SWEEP_S, self._sweep)
