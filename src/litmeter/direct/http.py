"""The HTTP process: it admits or refuses each request by its head, and gives it to the workers.

Workers get bodies as received. FastAPI's routing and validation would cost more CPU time than this whole
route, so LitServe's app serves all but predictions. Under overload most requests are refused, and ASGI would
cost more than the rest of a refusal: a full server refuses in the protocol.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from litmeter.direct.binding import has_key
from litmeter.direct.dispatcher import STOPPING, Dispatcher
from litmeter.direct.messages import Headers, Reply, RequestError, error_reply
from litmeter.direct.metrics import request_seconds
from litmeter.direct.middleware import UNAUTHORISED, check_length, read_body
from litmeter.direct.settings import WorkerSettings

logger = logging.getLogger(__name__)

FULL_REASON = "the server is full; try again later"
FULL = error_reply(503, FULL_REASON)
NO_BODY = (204, 304)
"""Statuses without a body and a Content-Length (RFC 9110)."""


async def always() -> bool:
    """Default health check: always healthy."""
    return True


@dataclass(eq=False)
class DirectRoute:
    """ASGI application that answers ``POST`` to ``path``, and ``GET /health``."""

    app: ASGIApp  # answers all other requests
    dispatcher: Dispatcher
    settings: WorkerSettings
    path: str
    key: str | None  # the API key that requests must send, if any
    # Limit of a body by its content type; raises RequestError for a type that is not accepted.
    max_bytes: Callable[[bytes], int] = lambda content_type: sys.maxsize
    is_healthy: Callable[[], Awaitable[bool]] = always

    def __post_init__(self) -> None:
        self._queue_bytes = self.settings.max_queue_mib * 2**20
        self._small_bytes = self._queue_bytes / self.settings.max_queue
        self.held_bytes = 0  # received bytes of all bodies in flight
        self.slow = 0  # requests on their way for longer than LimitedProtocol.PROMPT_S

    def admit(self, pairs: Iterable[tuple[bytes, bytes]]) -> bytes | Reply:
        """Admit a request by its headers: return its content type.

        Or return the refusal. A full server makes no further checks, so that refusals are cheap. While the
        bodies in flight reach the limit together, bodies up to an equal share of the limit are still
        admitted: an attacker's large bodies keep no small body out.
        """
        if self.dispatcher.stopping:
            return STOPPING
        if self.dispatcher.is_full():
            return FULL
        if self.key is not None and not has_key(pairs, self.key):
            return UNAUTHORISED
        headers = dict(pairs)
        content_type = headers.get(b"content-type", b"")
        try:
            body_bytes = check_length(headers, self._limit_bytes(content_type))
        except RequestError as error:
            return error.reply
        if body_bytes > self._small_bytes and self.held_bytes >= self._queue_bytes:
            return FULL
        return content_type

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["path"] == self.path and scope["method"] == "POST":
            reply = await self._predict(scope, receive)
            # The rest of a too large chunked body cannot be skipped: it might never end.
            close = reply.status == 413 and b"content-length" not in dict(scope["headers"])
            await self._respond(reply, send, close=close)
        elif scope["path"] == "/health" and scope["method"] in ("GET", "HEAD"):
            await self._respond(self.dispatcher.health(await self.is_healthy()), send)
        else:
            await self.app(scope, receive, send)

    async def _predict(self, scope: Scope, receive: Receive) -> Reply:
        admitted = self.admit(scope["headers"])
        if isinstance(admitted, Reply):
            return admitted  # uvicorn skips the body
        slot, own_bytes = None, 0

        def hold(more_bytes: int) -> None:
            nonlocal own_bytes
            own_bytes += more_bytes
            self.held_bytes += more_bytes
            # Small bodies may add the limit twice: those with a slot, and those on their way.
            if self.held_bytes > self._queue_bytes * (1 if own_bytes > self._small_bytes else 3):
                raise RequestError(FULL)

        self.dispatcher.admitted += 1
        try:
            body = await read_body(receive, self._limit_bytes(admitted), hold)
            if self.dispatcher.is_full():
                return FULL
            slot = self.dispatcher.slots.acquire()
            return await self.dispatcher.submit(slot, admitted, body, receive)
        except RequestError as error:
            return error.reply
        finally:
            self.held_bytes -= own_bytes
            self.dispatcher.admitted -= 1
            if slot is not None:
                self.dispatcher.release(slot)

    def _limit_bytes(self, content_type: bytes) -> int:
        return min(self.max_bytes(content_type), self._queue_bytes)

    def headers_of(self, reply: Reply, *, close: bool) -> Headers:
        """All headers of a reply; ``close`` ends the connection, as a draining server always does."""
        length = () if reply.status in NO_BODY else ((b"content-length", b"%d" % len(reply.body)),)
        closing = ((b"connection", b"close"),) if close or self.dispatcher.stopping else ()
        return (*reply.headers, *length, *closing)

    async def _respond(self, reply: Reply, send: Send, *, close: bool = False) -> None:
        headers = self.headers_of(reply, close=close)
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await send({"type": "http.response.body", "body": reply.body})


class DrainingServer(uvicorn.Server):
    """Drains the dispatcher before uvicorn stops.

    Uvicorn alone closes the listening socket at once: a load balancer could not read ``stopping`` from
    ``/health``, and requests on open connections would get no answer.
    """

    def __init__(self, config: uvicorn.Config, route: DirectRoute) -> None:
        super().__init__(config)
        self._route = route

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the dispatcher and uvicorn."""
        self._route.dispatcher.start()
        await super().startup(sockets)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})  # blocked since before the fork

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Finish the accepted requests, then stop uvicorn."""
        dispatcher, seconds = self._route.dispatcher, self._route.settings.drain_s
        await dispatcher.drain(seconds)
        if dispatcher.unfinished:
            logger.error("%d requests were not finished within %g s", dispatcher.unfinished, seconds)
        await super().shutdown(sockets)


class Refused:
    """Stands in for uvicorn's cycle of a request refused at its head: uvicorn skips the body."""

    message_event = asyncio.Event()  # uvicorn sets it; nothing waits for it
    disconnected = False
    response_started = response_complete = True
    keep_alive = True


class LimitedProtocol(HttpToolsProtocol):
    """Refuses, as JSON: malformed HTTP, too large heads, too slow requests; and predictions while full."""

    cycle: RequestResponseCycle | Refused | None  # type: ignore[assignment]

    MAX_HEAD_BYTES = 65_536
    """Maximum size of a head, and of framing between two parts of a body."""
    REQUEST_TIMEOUT_S = 20.0
    """Time from a request's first byte to its last, and from the connection to the first byte."""
    PROMPT_S = 1.0
    """A request that takes longer to arrive is refused while ``max_queue`` such requests are on their way:
    whoever sends many slowly keeps out no request that comes at once."""

    _head_bytes = 0
    _deadline: asyncio.TimerHandle | None = None
    _is_slow = False
    _head_complete = False
    """Whether ``cycle`` belongs to the request being received: from the end of the head to the last byte."""

    def __init__(self, *args: Any, route: DirectRoute, **options: Any) -> None:
        super().__init__(*args, **options)
        self._route = route

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the first request's timeout."""
        super().connection_made(transport)
        self._start_deadline(self.REQUEST_TIMEOUT_S)

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the timeout."""
        self._cancel_deadline()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse data, which calls the callbacks below; refuse a too large head."""
        self._head_bytes += len(data)
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._head_bytes > self.MAX_HEAD_BYTES:
            self._refuse(431, "the head of the request is too large")
        elif self._deadline is None and self.timeout_keep_alive_task is None and self._is_idle():
            # Uvicorn sets no keep-alive timeout if the answer was sent before the body's end.
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def on_message_begin(self) -> None:
        """Start a request's timeout at its first byte."""
        self._cancel_deadline()
        self._deadline = self.loop.call_later(self.PROMPT_S, self._become_slow)
        self._unset_keepalive_if_required()  # set by the previous answer
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Pass a request with a complete head to the route, or refuse it."""
        self._head_bytes = 0
        if self._route.dispatcher.is_full() and self._is_plain():
            self.cycle = Refused()
            request_seconds(FULL.status).observe(0.0)
            self._write(FULL)
            self.on_response_complete()
        else:
            super().on_headers_complete()
        self._head_complete = True

    def on_body(self, body: bytes) -> None:
        """Reset the framing size between two parts of the body."""
        self._head_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Cancel the timeout at the last byte."""
        self._head_bytes = 0
        self._head_complete = False
        self._cancel_deadline()
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse malformed HTTP."""
        self._refuse(400, msg)

    def _is_plain(self) -> bool:
        """Whether the request is a prediction whose body has a known length, so that uvicorn can skip it."""
        return (
            self.url == self._route.path.encode()
            and self.parser.get_method() == b"POST"
            and self.parser.get_http_version() == "1.1"
            and self.parser.should_keep_alive()
            and not self.parser.should_upgrade()
            and not self.expect_100_continue
            and not self.flow.write_paused
            and not self._route.dispatcher.stopping
            and self._is_idle()
            and any(name == b"content-length" for name, _ in self.headers)
        )

    def _write(self, reply: Reply, *, close: bool = False) -> None:
        """Write a complete answer."""
        headers = (*self._route.headers_of(reply, close=close), *self.server_state.default_headers)
        lines = b"".join([b"%b: %b\r\n" % header for header in headers])
        self.transport.write(STATUS_LINE[reply.status] + lines + b"\r\n" + reply.body)

    def _start_deadline(self, seconds: float) -> None:
        reason = f"the request did not arrive within {self.REQUEST_TIMEOUT_S:g} s"
        self._deadline = self.loop.call_later(seconds, self._refuse, 408, reason)

    def _become_slow(self) -> None:
        if self._route.slow < self._route.settings.max_queue:
            self._route.slow += 1
            self._is_slow = True
            self._start_deadline(self.REQUEST_TIMEOUT_S - self.PROMPT_S)
        else:
            self._refuse(FULL.status, FULL_REASON)

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        if self._is_slow:
            self._route.slow -= 1
            self._is_slow = False

    def _is_idle(self) -> bool:
        """Whether all requests with a complete head have been answered."""
        return self.cycle is None or self.cycle.response_complete

    def _refuse(self, status: int, reason: str) -> None:
        """Close the connection; send the reason if all earlier requests on it have been answered."""
        if self._head_complete and self.cycle is not None:
            is_next = not (self.cycle.response_started or self.pipeline)
        else:
            is_next = self._is_idle()
        if is_next and not self.transport.is_closing():
            self._write(error_reply(status, reason), close=True)
        self.transport.close()
