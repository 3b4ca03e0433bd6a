"""The way of a request through the HTTP process: admission by its head, and the ASGI route before FastAPI.

Workers get the body as it was received. LitServe's own route stays behind this one for the OpenAPI document
only, as FastAPI's routing and validation cost more CPU time than the whole of it.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from time import perf_counter

from starlette.types import ASGIApp, Receive, Scope, Send

from litmeter.serve.binding import has_key
from litmeter.serve.direct.dispatcher import STOPPING, Dispatcher
from litmeter.serve.errors import Reply, RequestError, error_reply
from litmeter.serve.metrics import RequestTimer
from litmeter.serve.middleware import UNAUTHORISED, check_head, read_body

FULL_REASON = "the server is full; try again later"
FULL = error_reply(503, FULL_REASON)

REFUSED_STATUS = "litmeter.refused_status"
"""Key of an ASGI scope with the status that the protocol has answered, as the body did not arrive."""

Headers = Iterable[tuple[bytes, bytes]]
"""Pairs of a name in lower case and a value."""


@dataclass(frozen=True, slots=True)
class Admitted:
    """An admitted request, whose body is to be read and submitted to the dispatcher.

    Attributes:
        slot: the slot it holds; the caller releases it once.
        is_image: whether the body is an image file; otherwise it is JSON.
    """

    slot: int
    is_image: bool


class Admission:
    """Admits or refuses requests, and times them.

    Args:
        max_bytes: maximum size of a body; one with a larger Content-Length is refused unread.
        key: API key that requests must send, None if they need none.
        timed: whether requests are counted in the metrics.
    """

    def __init__(self, dispatcher: Dispatcher, max_bytes: int, key: str | None, timed: bool) -> None:
        self.dispatcher = dispatcher
        self.max_bytes = max_bytes
        self._key = key
        self._timed = timed

    def decide(self, headers: Headers) -> Admitted | Reply:
        """Admit a request, or return its refusal.

        A full server makes no further checks, so that refusing costs little CPU time under overload.
        """
        if self.dispatcher.stopping:
            return STOPPING
        if self.dispatcher.full:
            return FULL
        if self._key is not None and not has_key(headers, self._key):
            return UNAUTHORISED
        try:
            is_image, body_bytes = check_head(dict(headers), self.max_bytes)
        except RequestError as error:
            return error_reply(error.status, str(error))
        slot = self.dispatcher.acquire() if self.dispatcher.has_room(body_bytes) else None
        return FULL if slot is None else Admitted(slot, is_image)

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
        if self._timed:
            RequestTimer.begin()
        return perf_counter()

    def end(self, status: int, began: float) -> None:
        """Count the end of the request that began at ``began``."""
        if self._timed:
            RequestTimer.end(status, began)


class DirectRoute:
    """ASGI application that answers ``POST /predict`` and ``GET /health``.

    Args:
        app: answers all other requests.
        drain_s: how long the requests in flight may take once the server is told to stop.
    """

    def __init__(self, app: ASGIApp, admission: Admission, drain_s: float) -> None:
        self.app = app
        self._admission = admission
        self._dispatcher = admission.dispatcher
        self._drain_s = drain_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request, or the lifespan of the server."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http" and scope["path"] == "/predict" and scope["method"] == "POST":
            await self._timed_predict(scope, receive, send)
        elif scope["type"] == "http" and scope["path"] == "/health" and scope["method"] in ("GET", "HEAD"):
            status, body = self._dispatcher.health()
            await self._respond(status, body, send)
        else:
            await self.app(scope, receive, send)

    async def _timed_predict(self, scope: Scope, receive: Receive, send: Send) -> None:
        began, status = self._admission.begin(), 500
        try:
            status, body = await self._predict(scope, receive)
            status = scope.get(REFUSED_STATUS, status)
            # A chunked body that is too large might never end: its rest cannot be skipped.
            close = status == 413 and b"content-length" not in dict(scope["headers"])
            await self._respond(status, body, send, close=close)
        finally:
            self._admission.end(status, began)

    async def _predict(self, scope: Scope, receive: Receive) -> Reply:
        decision = self._admission.decide(scope["headers"])
        if not isinstance(decision, Admitted):
            return decision  # uvicorn skips the body
        try:
            body = await read_body(receive, self._admission.max_bytes, partial(self._hold, decision.slot))
            return await self._dispatcher.submit(decision.slot, decision.is_image, body, receive)
        except RequestError as error:
            return error_reply(error.status, str(error))
        finally:
            self._dispatcher.release(decision.slot)

    def _hold(self, slot: int, body_bytes: int) -> None:
        if not self._dispatcher.hold(slot, body_bytes):
            raise RequestError(FULL[0], FULL_REASON)

    async def _respond(self, status: int, body: bytes, send: Send, *, close: bool = False) -> None:
        headers = self._admission.response_headers(status, close=close)
        headers.append((b"content-length", b"%d" % len(body)))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        """Start the dispatcher with uvicorn; replaces LitServe's lifespan, which needs LitServe's queues."""
        await receive()
        self._dispatcher.start()
        drain_on_sigterm(self._dispatcher, self._drain_s)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})


logger = logging.getLogger(__name__)


def drain_on_sigterm(dispatcher: Dispatcher, drain_s: float) -> None:
    """Make SIGTERM drain ``dispatcher`` before uvicorn shuts down; called in uvicorn's event loop.

    Uvicorn alone would close its listening socket at once: a load balancer could not read ``stopping`` from
    ``/health``, and further requests on open connections would get no answer.

    Args:
        drain_s: how long draining may take.
    """
    stop_uvicorn = signal.getsignal(signal.SIGTERM)
    assert callable(stop_uvicorn)
    tasks: set[asyncio.Task[None]] = set()

    async def drain() -> None:
        await dispatcher.drain(drain_s)
        if dispatcher.unfinished:
            logger.error("%d requests were not finished within %g s", dispatcher.unfinished, drain_s)
        stop_uvicorn(signal.SIGTERM, None)

    def begin() -> None:
        if not tasks:
            tasks.add(asyncio.get_running_loop().create_task(drain()))

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, begin)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})  # blocked since before the fork
