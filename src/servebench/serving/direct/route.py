"""The HTTP process's route, in front of FastAPI: the body goes to the workers as it came.

LitServe's own route stays behind it, unused but for the OpenAPI document: what lies between costs more
than all of the direct way.
"""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from servebench.serving.bodies import BodyError, check_head, read_body
from servebench.serving.direct.dispatcher import Dispatcher, refused
from servebench.serving.direct.stopping import drain_by_signal
from servebench.serving.direct.workers import Reply


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

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] == "lifespan":
            self._dispatcher.start()
            drain_by_signal(self._dispatcher, self._drain_s)
        request = dict(scope.get("headers", ()))
        if scope["type"] == "http" and scope["path"] == "/predict" and scope["method"] == "POST":
            status, body = await self._reply(request, receive)
        elif scope["type"] == "http" and scope["path"] == "/health" and scope["method"] in ("GET", "HEAD"):
            status, body = self._dispatcher.health()
        else:
            await self.app(scope, receive, send)
            return
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        if status == 503:
            headers.append((b"retry-after", b"1"))
        endless = status == 413 and b"content-length" not in request
        if endless or self._dispatcher.stopping:
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _reply(self, headers: dict[bytes, bytes], receive: Receive) -> Reply:
        ticket = None
        try:
            is_image = check_head(headers, self._max_bytes)
            # A body that is refused unread stays on the connection: uvicorn skips it as it comes.
            ticket = self._dispatcher.admit()
            if ticket is None:
                return self._dispatcher.why_not()
            body = await read_body(receive, self._max_bytes)
            return await self._dispatcher.ask(ticket, is_image, body, receive)
        except BodyError as error:
            return refused(error.status, str(error))
        finally:
            if ticket is not None:
                self._dispatcher.release(ticket)
