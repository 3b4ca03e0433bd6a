"""The HTTP process's route, in front of FastAPI: the body goes to the workers as it came.

LitServe's own route stays behind it, unused but for the OpenAPI document: what lies between costs more
than all of the direct way.
"""

from __future__ import annotations

import hmac
import os

from starlette.types import ASGIApp, Receive, Scope, Send

from servebench.serving.bodies import is_image
from servebench.serving.direct.dispatcher import Dispatcher, Reply, refused

KEY_VARIABLE = "LIT_SERVER_API_KEY"
"""LitServe's own: where it is set, requests need it in the header X-API-Key."""

TOO_LARGE = "Payload too large"


class DirectRoute:
    """ASGI middleware that answers ``POST /predict``.

    Args:
        max_bytes: of a body; a larger one is refused, unread where its length is announced.
    """

    def __init__(self, app: ASGIApp, dispatcher: Dispatcher, max_bytes: int) -> None:
        self.app = app
        self._dispatcher = dispatcher
        self._max_bytes = max_bytes
        self._key = os.environ.get(KEY_VARIABLE, "").encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http" or scope["path"] != "/predict" or scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        status, body = await self._reply(dict(scope["headers"]), receive)
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        if status == 503:
            headers.append((b"retry-after", b"1"))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _reply(self, headers: dict[bytes, bytes], receive: Receive) -> Reply:
        if self._key and not hmac.compare_digest(headers.get(b"x-api-key", b""), self._key):
            return refused(401, "X-API-Key: missing or wrong")
        announced = headers.get(b"content-length", b"0")
        if announced.isdigit() and int(announced) > self._max_bytes:
            return refused(413, TOO_LARGE)
        chunks: list[bytes] = []
        size, more = 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return refused(400, "body: not whole")
            chunks.append(message.get("body", b""))
            size += len(chunks[-1])
            if size > self._max_bytes:
                return refused(413, TOO_LARGE)
            more = message.get("more_body", False)
        body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        return await self._dispatcher.ask(is_image(headers.get(b"content-type", b"")), body)
