"""Checks of the API key and of bodies, for LitServe's transport and the direct transport."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from litmeter.direct.binding import KEY_HEADER, has_key
from litmeter.direct.messages import Reply, RequestError, error_reply, too_large

UNAUTHORISED = error_reply(401, f"{KEY_HEADER}: missing or wrong")
PUBLIC_PATHS = frozenset(("/", "/health"))
"""Paths without a key: the page, which holds no data, and the load balancer's health check."""


def response_of(reply: Reply) -> Response:
    """A reply's status and JSON body as a response."""
    return Response(reply.body, reply.status, media_type="application/json")


class ApiKey:
    """ASGI middleware that refuses requests without the key before their bodies are read.

    It replaces LitServe's check, which compares in variable time and does not cover ``/metrics``, ``/docs``
    and the direct transport.
    """

    def __init__(self, app: ASGIApp, key: str) -> None:
        self.app = app
        self._key = key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        is_public = scope["type"] != "http" or scope["path"] in PUBLIC_PATHS
        if is_public or has_key(scope["headers"], self._key):
            await self.app(scope, receive, send)
        else:
            await response_of(UNAUTHORISED)(scope, receive, send)


def check_length(headers: Mapping[bytes, bytes], max_bytes: int) -> int:
    """The Content-Length, or 0; raise RequestError, status 413, if it exceeds ``max_bytes``.

    Args:
        headers: values by lower-case names.
    """
    text = headers.get(b"content-length", b"0").strip()
    length = int(text) if text.isdigit() else 0
    if length > max_bytes:
        raise RequestError(error_reply(413, f"body: {too_large(max_bytes)}"))
    return length


async def read_body(
    receive: Receive, max_bytes: int, on_bytes: Callable[[int], None] = lambda count: None
) -> bytes:
    """Read a whole request body; call ``on_bytes`` with the size of each part.

    Raises:
        RequestError: status 413 as soon as the body exceeds ``max_bytes``, 400 if the client disconnects.
    """
    chunks: list[bytes] = []
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise RequestError(error_reply(400, "body: not whole"))
        chunks.append(message.get("body", b""))
        size += len(chunks[-1])
        on_bytes(len(chunks[-1]))
        if size > max_bytes:
            raise RequestError(error_reply(413, f"body: {too_large(max_bytes)}"))
        more = message.get("more_body", False)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)
