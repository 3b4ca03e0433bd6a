"""The HTTP process's side: hands requests to the workers and their answers back to who asked."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from time import perf_counter

from starlette.types import Receive

from servebench.serving.direct.channel import REGISTRATION, Channel, Request
from servebench.serving.direct.slots import NOBODY
from servebench.serving.direct.worker_registry import WorkerRegistry
from servebench.serving.errors import Reply, reply

logger = logging.getLogger(__name__)

SWEEP_S = 0.1
"""Between two looks at the requests that wait, while there are any."""

STOPPING = reply(503, "the server is stopping")
DIED = reply(503, "the worker that had this request died")
OVERLOADED = reply(503, "no memory or file handle left for this request; try again later")
CLIENT_GONE = 499, b""
"""Sent to nobody: the client has closed its connection. The metrics count it by nginx's status for that."""


Respond = Callable[[Reply], None]
"""How a request is answered; called once, in the event loop."""


@dataclass(frozen=True, slots=True)
class Pending:
    """A request that has not been answered yet."""

    received: float
    respond: Respond


class Dispatcher:
    """Belongs to the event loop that runs when it is started.

    Args:
        timeout_s: how long a request may wait for a worker; once one has it, it is finished.
        workers: how many there shall be.

    Attributes:
        stopping: nothing more shall be admitted.
        unfinished: how many requests had been admitted and were not answered in time, once it has stopped.
    """

    def __init__(self, channel: Channel, timeout_s: float, workers: int) -> None:
        self._channel = channel
        self._timeout_s = timeout_s
        self._workers = WorkerRegistry(workers, self._on_worker_exit)
        self._pending: dict[int, Pending] = {}
        self._unsent: dict[int, Request] = {}
        self._sweeping = False
        self._last_answered = self._last_death = 0.0
        self.stopping = False
        self.unfinished = 0

    def start(self) -> None:
        """Listen to the workers."""
        asyncio.get_running_loop().add_reader(self._channel.responses_out, self._read_responses)

    @property
    def full(self) -> bool:
        """Whether as many requests are in flight as there may be."""
        return self._channel.slots.full

    def acquire(self) -> int | None:
        """A slot for a request, before its body is read; None where there is none."""
        return self._channel.slots.acquire()

    def release(self, slot: int) -> None:
        """Give a slot back, once for each that was given; what has not been answered never will be."""
        self._pending.pop(slot, None)
        self._unsent.pop(slot, None)
        self._channel.slots.release(slot)

    def health(self) -> Reply:
        """The answer to ``/health``."""
        return self._workers.health(self.stopping)

    def submit(self, slot: int, is_image: bool, body: bytes, respond: Respond) -> None:
        """Have an admitted request answered: with 504 when it waited too long."""
        request = Request(slot, is_image, perf_counter(), body)
        self._pending[slot] = Pending(request.received, respond)
        self._send(request)
        if not self._sweeping:
            self._sweeping = True
            asyncio.get_running_loop().call_later(SWEEP_S, self._sweep)

    async def ask(self, slot: int, is_image: bool, body: bytes, receive: Receive) -> Reply:
        """The answer to an admitted request.

        Args:
            receive: of the client's connection; where it goes away, no worker works for it.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Reply] = loop.create_future()

        def resolve(found: Reply) -> None:
            if not answer.done():
                answer.set_result(found)

        async def resolve_on_disconnect() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            resolve(CLIENT_GONE)

        self.submit(slot, is_image, body, resolve)
        watch = loop.create_task(resolve_on_disconnect())
        try:
            return await answer
        finally:
            watch.cancel()

    async def drain(self, seconds: float) -> None:
        """Admit nothing more, and wait for what has been; refuse what is left when the time is up."""
        self.stopping = True
        deadline = perf_counter() + seconds
        while self._channel.slots.in_flight and perf_counter() < deadline:
            await asyncio.sleep(SWEEP_S / 5)
        self.unfinished = self._channel.slots.in_flight
        for slot in [*self._pending]:
            self._respond(slot, STOPPING)

    def _send(self, request: Request) -> None:
        if self._unsent or not self._sent(request):
            self._unsent[request.slot] = request
            asyncio.get_running_loop().add_writer(self._channel.requests_in, self._send_more)

    def _send_more(self) -> None:
        """Send what is waiting, as the kernel has room again."""
        for request in [*self._unsent.values()]:
            if not self._sent(request):
                return
            self._unsent.pop(request.slot, None)
        asyncio.get_running_loop().remove_writer(self._channel.requests_in)

    def _sent(self, request: Request) -> bool:
        """Hand a request over, or refuse it where that cannot be done; False where the kernel is full."""
        try:
            self._channel.send_request(request)
        except BlockingIOError:
            return False
        except OSError as error:  # no descriptor or memory for a large body
            logger.error("a request could not be handed to the workers: %s", error)
            self._respond(request.slot, OVERLOADED)
        return True

    def _read_responses(self) -> None:
        with suppress(BlockingIOError):
            while True:
                for response in self._channel.receive_responses():
                    if response.slot == REGISTRATION:
                        self._workers.register_worker(response.status)
                    elif (pending := self._pending.get(response.slot)) is not None:
                        self._last_answered = max(self._last_answered, pending.received)
                        self._respond(response.slot, (response.status, response.body))

    def _respond(self, slot: int, answer: Reply) -> None:
        self._unsent.pop(slot, None)
        self._pending.pop(slot).respond(answer)

    def _on_worker_exit(self, worker: int) -> None:
        self._read_responses()  # what it sent before it died counts
        self._last_death = perf_counter()
        for slot in [*self._pending]:
            if self._channel.slots.claimed_by(slot) == worker:
                self._respond(slot, DIED)

    def _sweep(self) -> None:
        """Answer what has waited too long, or was lost; the oldest request comes first."""
        now = perf_counter()
        # Requests are taken in the order of their coming: one that was passed over by a later one was
        # lost between a worker's hands as it died.
        lost_before = min(self._last_death, self._last_answered)
        for slot, pending in [*self._pending.items()]:
            if now - pending.received < SWEEP_S:
                break
            if self._channel.slots.claimed_by(slot) != NOBODY:
                continue
            if pending.received < lost_before:
                self._respond(slot, DIED)
            elif now - pending.received > self._timeout_s:
                self._respond(slot, reply(504, f"no worker was free within {self._timeout_s:g} s"))
        self._sweeping = bool(self._pending)
        if self._sweeping:
            asyncio.get_running_loop().call_later(SWEEP_S, self._sweep)
