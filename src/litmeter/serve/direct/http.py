"""The HTTP process: its protocol admits or refuses a request by its head, its route gives it to the workers.

Workers get the body as it was received. LitServe's own route stays behind this one for the OpenAPI document
only, as FastAPI's routing and validation cost more CPU time than the whole of it. Under overload most of the
CPU time would go to requests that are refused: ASGI and its middleware cost more than all else that this
process does for a request. So a full server answers 503 in the protocol.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, cast

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from litmeter.serve.binding import has_key
from litmeter.serve.direct.dispatcher import STOPPING, Dispatcher
from litmeter.serve.errors import Reply, RequestError, error_reply
from litmeter.serve.metrics import RequestTimer
from litmeter.serve.middleware import UNAUTHORISED, check_head, read_body

if TYPE_CHECKING:
    from uvicorn._types import ASGI3Application

logger = logging.getLogger(__name__)

FULL_REASON = "the server is full; try again later"
FULL = error_reply(503, FULL_REASON)
PHRASES = {status.value: status.phrase.encode() for status in HTTPStatus}

REFUSED_STATUS = "litmeter.refused_status"
"""Key of an ASGI scope with the status that the protocol has answered, as the body did not arrive."""


@dataclass(eq=False)
class DirectRoute:
    """ASGI application that answers ``POST /predict`` and ``GET /health``."""

    app: ASGIApp  # answers all other requests
    dispatcher: Dispatcher
    max_bytes: int  # of a body; one with a larger Content-Length is refused unread
    key: str | None  # the API key that requests must send, None if they need none
    timed: bool  # whether requests are counted in the metrics
    drain_s: float  # how long the requests in flight may take once the server is told to stop

    def admit(self, headers: Iterable[tuple[bytes, bytes]]) -> tuple[int, bool] | Reply:
        """Admit a request by its head, or return its refusal.

        A full server makes no further checks, so that refusing costs little CPU time under overload.

        Returns:
            Its slot, which the caller releases once, and whether the body is an image file, otherwise JSON.
        """
        if self.dispatcher.stopping:
            return STOPPING
        if self.dispatcher.slots.full:
            return FULL
        if self.key is not None and not has_key(headers, self.key):
            return UNAUTHORISED
        try:
            is_image, body_bytes = check_head(dict(headers), self.max_bytes)
        except RequestError as error:
            return error.reply
        slot = self.dispatcher.slots.acquire() if self.dispatcher.has_room(body_bytes) else None
        return FULL if slot is None else (slot, is_image)

    def response_headers(self, status: int, *, close: bool) -> list[tuple[bytes, bytes]]:
        """Headers of an answer: content type, Retry-After with 503, and Connection where it is closed.

        Args:
            close: whether the connection is closed after the answer; while the server drains, all are.
        """
        headers = [(b"content-type", b"application/json")]
        if status == 503:
            headers.append((b"retry-after", b"1"))
        if close or self.dispatcher.stopping:
            headers.append((b"connection", b"close"))
        return headers

    def begin(self) -> float:
        """Count the start of a request; return its time (monotonic clock, seconds)."""
        return RequestTimer.begin() if self.timed else 0.0

    def end(self, status: int, began: float) -> None:
        """Count the end of the request that began at ``began``."""
        if self.timed:
            RequestTimer.end(status, began)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request, or the lifespan of the server."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http" and scope["path"] == "/predict" and scope["method"] == "POST":
            await self._timed_predict(scope, receive, send)
        elif scope["type"] == "http" and scope["path"] == "/health" and scope["method"] in ("GET", "HEAD"):
            await self._respond(self.dispatcher.health(), send)
        else:
            await self.app(scope, receive, send)

    async def _timed_predict(self, scope: Scope, receive: Receive, send: Send) -> None:
        began, status = self.begin(), 500
        try:
            status, body = await self._predict(scope, receive)
            status = scope.get(REFUSED_STATUS, status)
            # A chunked body that is too large might never end: its rest cannot be skipped.
            close = status == 413 and b"content-length" not in dict(scope["headers"])
            await self._respond(Reply(status, body), send, close=close)
        finally:
            self.end(status, began)

    async def _predict(self, scope: Scope, receive: Receive) -> Reply:
        admitted = self.admit(scope["headers"])
        if isinstance(admitted, Reply):
            return admitted  # uvicorn skips the body
        slot, is_image = admitted
        try:
            body = await read_body(receive, self.max_bytes, partial(self._hold, slot))
            return await self.dispatcher.submit(slot, is_image, body, receive)
        except RequestError as error:
            return error.reply
        finally:
            self.dispatcher.release(slot)

    def _hold(self, slot: int, body_bytes: int) -> None:
        if not self.dispatcher.hold(slot, body_bytes):
            raise RequestError(FULL.status, FULL_REASON)

    async def _respond(self, reply: Reply, send: Send, *, close: bool = False) -> None:
        status, body = reply
        headers = self.response_headers(status, close=close)
        headers.append((b"content-length", b"%d" % len(body)))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        """Start the dispatcher with uvicorn; replaces LitServe's lifespan, which needs LitServe's queues."""
        await receive()
        self.dispatcher.start()
        self._drain_on_sigterm()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})

    def _drain_on_sigterm(self) -> None:
        """Make SIGTERM drain the dispatcher before uvicorn shuts down.

        Uvicorn alone would close its listening socket at once: a load balancer could not read ``stopping``
        from ``/health``, and further requests on open connections would get no answer.
        """
        stop_uvicorn = signal.getsignal(signal.SIGTERM)
        assert callable(stop_uvicorn)
        tasks: set[asyncio.Task[None]] = set()

        async def drain() -> None:
            await self.dispatcher.drain(self.drain_s)
            if unfinished := self.dispatcher.unfinished:
                logger.error("%d requests were not finished within %g s", unfinished, self.drain_s)
            stop_uvicorn(signal.SIGTERM, None)

        def begin() -> None:
            if not tasks:
                tasks.add(asyncio.get_running_loop().create_task(drain()))

        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, begin)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})  # blocked since before the fork


class _Refused:
    """A request refused at its head; in the place of uvicorn's cycle, it makes uvicorn skip the body."""

    message_event = asyncio.Event()  # set by uvicorn; nothing waits for it
    disconnected = False
    response_started = response_complete = True
    keep_alive = True


class LimitedProtocol(HttpToolsProtocol):
    """Refuses, as JSON, malformed HTTP, heads that are too large, and requests that arrive too slowly.

    While the server is full, it refuses all plain ``POST /predict``.
    """

    cycle: RequestResponseCycle | _Refused | None  # type: ignore[assignment]
    _running: RequestResponseCycle | None = None
    """The last request that was passed to the app; ``cycle`` may be a pipelined one, which waits for it."""

    MAX_HEAD_BYTES = 65_536
    """Maximum size of a head, and of what is received between two parts of a body."""
    REQUEST_TIMEOUT_S = 20.0
    """Time from a request's first byte to its last, and from the connection to the first byte."""
    CLOSE_TIMEOUT_S = 20.0
    """Time for a client to read its answers once its connection is being closed."""

    _head_bytes = 0
    _deadline: asyncio.TimerHandle | None = None
    _head_complete = False
    """Whether ``cycle`` is that of the request being received: from the end of its head to its last byte."""

    def __init__(self, *args: Any, route: DirectRoute, **options: Any) -> None:
        super().__init__(*args, **options)
        self._route = route

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the timeout of the first request."""
        super().connection_made(transport)
        self._start_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the timeout, and tell the app that the client has gone."""
        self._cancel_deadline()
        if self._running is not None and not self._running.response_complete:
            self._running.disconnected = True  # uvicorn marks ``cycle`` only
            self._running.message_event.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse data, which calls the callbacks below; refuse a head that is too large."""
        self._head_bytes += len(data)
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._head_bytes > self.MAX_HEAD_BYTES:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "the head of the request is too large")
        elif self._deadline is None and self.timeout_keep_alive_task is None and self._is_idle():
            # Uvicorn sets no timeout after the body of a request that was answered before its end.
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection."""
        if not self.transport.is_closing():
            super().timeout_keep_alive_handler()
            self._abort_later()

    def on_response_complete(self) -> None:
        """Limit the time for which a closing connection stays open."""
        super().on_response_complete()
        if self.transport.is_closing():
            self._abort_later()

    def on_message_begin(self) -> None:
        """Start the timeout of a request at its first byte."""
        self._start_deadline()
        self._unset_keepalive_if_required()  # set by an answer to the previous request
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Pass a request to the app, or refuse it, as its head is complete."""
        self._head_bytes = 0
        if self._route.dispatcher.slots.full and self._is_plain():
            self.cycle = _Refused()
            self._route.end(FULL.status, self._route.begin())
            self._write(FULL)
            self.on_response_complete()
        else:
            super().on_headers_complete()
        self._head_complete = True

    def on_body(self, body: bytes) -> None:
        """Reset the size of what is received between two parts of the body."""
        self._head_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Cancel the timeout at a request's last byte."""
        self._head_bytes = 0
        self._head_complete = False
        self._cancel_deadline()
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse malformed HTTP."""
        self._refuse(HTTPStatus.BAD_REQUEST, msg)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def _is_plain(self) -> bool:
        """Whether the request is a ``POST /predict`` whose body, of known length, uvicorn can skip."""
        return (
            self.url == b"/predict"
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
        """Write a complete answer, after which the connection may be closed."""
        status, body = reply
        headers = self._route.response_headers(status, close=close) + self.server_state.default_headers
        lines = b"".join([b"%b: %b\r\n" % header for header in headers])
        self.transport.write(
            b"HTTP/1.1 %d %b\r\n%bcontent-length: %d\r\n\r\n%b"
            % (status, PHRASES[status], lines, len(body), body)
        )

    def _start_deadline(self) -> None:
        self._cancel_deadline()
        self._deadline = self.loop.call_later(self.REQUEST_TIMEOUT_S, self._on_request_timeout)

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _on_request_timeout(self) -> None:
        if not self.transport.is_closing():
            reason = f"the request did not arrive within {self.REQUEST_TIMEOUT_S:g} s"
            self._refuse(HTTPStatus.REQUEST_TIMEOUT, reason)

    def _is_idle(self) -> bool:
        """Whether all requests with a complete head have been answered."""
        return self.cycle is None or self.cycle.response_complete

    def _refuse(self, status: HTTPStatus, reason: str) -> None:
        """Close the connection; give the reason only if all earlier requests on it have been answered."""
        if self._head_complete and self.cycle is not None:
            is_next = not (self.cycle.response_started or self.pipeline)
        else:
            is_next = self._is_idle()
        if is_next:
            self._write(error_reply(status, reason), close=True)
            if self._head_complete:  # the app has it, and counts it
                cast("dict[str, Any]", self.scope)[REFUSED_STATUS] = status.value
        self.transport.close()
        self._abort_later()

    def _abort_later(self) -> None:
        """Abort a closing connection after a time: it stays open until the client has read all answers."""
        self._cancel_deadline()
        self._deadline = self.loop.call_later(self.CLOSE_TIMEOUT_S, self.transport.abort)
