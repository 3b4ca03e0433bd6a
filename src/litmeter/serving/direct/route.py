"""The ASGI route of the direct transport, in front of FastAPI: workers get the body as it was received.

LitServe's own route stays behind it for the OpenAPI document only, as FastAPI's routing and validation cost
more CPU time than the whole of this route.
"""

from __future__ import annotations

from functools import partial

from starlette.types import ASGIApp, Receive, Scope, Send

from litmeter.serving.bodies import read_body
from litmeter.serving.direct.admission import (
    FULL,
    FULL_REASON,
    REFUSED_STATUS,
    Admission,
    Admitted,
)
from litmeter.serving.direct.draining import drain_on_sigterm
from litmeter.serving.errors import Reply, RequestError, error_reply


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
