"""The API key as middleware, and how bodies are read, with LitServe's transport and the direct one."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from litmeter.direct.binding import KEY_HEADER, has_key
from litmeter.direct.messages import Reply, RequestError, error_reply, too_large

UNAUTHORISED = error_reply(401, f"{KEY_HEADER}: missing or wrong")
PUBLIC_PATHS = frozenset(("/", "/health"))
"""Paths that need no key: the page, which holds no data, and the load balancer's health check."""


def response_of(reply: Reply) -> Response:
    """The response with the status and the JSON body of ``reply``."""
    return Response(reply.body, reply.status, media_type="application/json")


class ApiKey:
    """ASGI middleware that refuses requests without the key before it reads their body.

    It replaces LitServe's check, which does not compare in constant time and covers neither the direct
    transport nor ``/metrics`` and ``/docs``.
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
    """The Content-Length, 0 without one; raise RequestError, status 413, if it exceeds ``max_bytes``.

    Args:
        headers: values by name in lower case.
    """
    text = headers.get(b"content-length", b"0").strip()
    length = int(text) if text.isdigit() else 0
    if length > max_bytes:
        raise RequestError(413, f"body: {too_large(max_bytes)}")
    return length


async def read_body(
    receive: Receive, max_bytes: int, on_bytes: Callable[[int], None] = lambda count: None
) -> bytes:
    """Read a request body to its end; call ``on_bytes`` with the number of bytes of each part.

    Raises:
        RequestError: status 413 as soon as it exceeds ``max_bytes``, 400 if the client disconnects.
    """
    chunks: list[bytes] = []
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise RequestError(400, "body: not whole")
        chunks.append(message.get("body", b""))
        size += len(chunks[-1])
        on_bytes(len(chunks[-1]))
        if size > max_bytes:
            raise RequestError(413, f"body: {too_large(max_bytes)}")
        more = message.get("more_body", False)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)
