"""The HTTP process's route, in front of FastAPI: the body goes to the workers as it came.

LitServe's own route stays behind it, unused but for the OpenAPI document: what lies between costs more
than all of the direct way.
"""

from __future__ import annotations

import asyncio
import hmac
import os

from starlette.types import ASGIApp, Receive, Scope, Send

from servebench.serving.bodies import is_image
from servebench.serving.direct.dispatcher import Dispatcher, refused
from servebench.serving.direct.stopping import drain_by_signal
from servebench.serving.direct.workers import Reply

KEY_VARIABLE = "LIT_SERVER_API_KEY"
"""LitServe's own: where it is set, requests need it in the header X-API-Key."""

TOO_LARGE = "Payload too large"

BODY_S = 20.0
"""How long a body may take to arrive: until it is whole it holds a place that another could have."""


class DirectRoute:
    """ASGI middleware that answers ``POST /predict``, and ``/health`` without asking any other process.

    Args:
        max_bytes: of a body; a larger one is refused, unread where its length is announced.
        drain_s: how long what has been admitted may take to be finished once the server shall stop.
    """

    def __init__(self, app: ASGIApp, dispatcher: Dispatcher, max_bytes: int, drain_s: float) -> None:
        self.app = app
        self._dispatcher = dispatcher
        self._max_bytes = max_bytes
        self._drain_s = drain_s
        self._key = os.environ.get(KEY_VARIABLE, "").encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] == "lifespan":
            self._dispatcher.start()
            drain_by_signal(self._dispatcher, self._drain_s)
        if scope["type"] == "http" and scope["path"] == "/predict" and scope["method"] == "POST":
            status, body = await self._reply(dict(scope["headers"]), receive)
        elif scope["type"] == "http" and scope["path"] == "/health" and scope["method"] in ("GET", "HEAD"):
            status, body = self._dispatcher.health()
        else:
            await self.app(scope, receive, send)
            return
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        if status == 503:
            headers.append((b"retry-after", b"1"))
        if status == 408 or self._dispatcher.stopping:
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _reply(self, headers: dict[bytes, bytes], receive: Receive) -> Reply:
        if self._key and not hmac.compare_digest(headers.get(b"x-api-key", b""), self._key):
            return refused(401, "X-API-Key: missing or wrong")
        announced = headers.get(b"content-length", b"0")
        if announced.isdigit() and int(announced) > self._max_bytes:
            return refused(413, TOO_LARGE)
        # A body that is refused unread stays on the connection: uvicorn skips it as it comes.
        ticket = self._dispatcher.admit()
        if ticket is None:
            return self._dispatcher.why_not()
        try:
            body = await self._body(receive)
            if not isinstance(body, bytes):
                return body
            form = is_image(headers.get(b"content-type", b""))
            return await self._dispatcher.ask(ticket, form, body, receive)
        finally:
            self._dispatcher.release(ticket)

    async def _body(self, receive: Receive) -> bytes | Reply:
        """The whole body, or why it is refused."""
        clock = BodyClock()
        chunks: list[bytes] = []
        size, more = 0, True
        try:
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return refused(400, "body: not whole")
                chunks.append(message.get("body", b""))
                size += len(chunks[-1])
                if size > self._max_bytes:
                    return refused(413, TOO_LARGE)
                more = message.get("more_body", False)
        except asyncio.CancelledError:
            if not clock.expired:
                raise
            return refused(408, f"body: not whole within {BODY_S:g} s")
        finally:
            clock.stop()
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)


class BodyClock:
    """Cancels the running task if a body takes too long: ``asyncio.wait_for`` without a task of its own."""

    def __init__(self) -> None:
        self.expired = False
        task = asyncio.current_task()
        assert task is not None
        self._timer = asyncio.get_running_loop().call_later(BODY_S, self._expire, task)

    def stop(self) -> None:
        """The body is there, or given up."""
        self._timer.cancel()

    def _expire(self, task: asyncio.Task[object]) -> None:
        self.expired = True
        task.cancel()
