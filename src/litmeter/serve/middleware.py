"""Middleware before LitServe's route: the API key, and image files as bodies.

LitServe's route takes JSON alone. The direct transport reads and checks bodies by the same functions.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from litmeter.serve.binding import KEY_HEADER, has_key
from litmeter.serve.classifier import EMPTY_BODY
from litmeter.serve.errors import Reply, RequestError, error_reply

UNAUTHORISED = error_reply(401, f"{KEY_HEADER}: missing or wrong")
UNSUPPORTED_TYPE = (
    "Content-Type: neither application/json nor image/*; send an image file as it is, not as a form: "
    "curl --data-binary @photo.jpg -H 'Content-Type: image/jpeg'"
)
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


class ImageBodies:
    """ASGI middleware that converts an image file to the JSON body that LitServe's route takes."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        if scope["type"] != "http" or scope["path"] != "/predict" or scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        try:
            is_image, _ = check_head(dict(scope["headers"]), self._max_bytes)
            if not is_image:
                await self.app(scope, receive, send)
                return
            body = await read_body(receive, self._max_bytes)
            if not body:
                raise RequestError(400, EMPTY_BODY)
            text = base64.b64encode(body)
        except RequestError as error:
            await response_of(error.reply)(scope, receive, send)
            return
        headers = [pair for pair in scope["headers"] if pair[0] not in (b"content-type", b"content-length")]
        headers.append((b"content-type", b"application/json"))
        messages = [{"type": "http.request", "body": b'{"image":"' + text + b'"}', "more_body": False}]

        async def receive_json() -> Message:
            return messages.pop() if messages else await receive()

        await self.app({**scope, "headers": headers}, receive_json, send)


def check_head(headers: Mapping[bytes, bytes], max_bytes: int) -> tuple[bool, int]:
    """Whether the body is an image file, otherwise it is JSON; and the Content-Length, 0 without one.

    Args:
        headers: values by name in lower case.

    Raises:
        RequestError: status 415 for any other content type, 413 if Content-Length exceeds ``max_bytes``.
    """
    content_type = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    is_image = content_type.startswith(b"image/")
    if not is_image and content_type != b"application/json":
        raise RequestError(415, UNSUPPORTED_TYPE)
    text = headers.get(b"content-length", b"0").strip()
    length = int(text) if text.isdigit() else 0
    if length > max_bytes:
        raise RequestError(413, "Payload too large")
    return is_image, length


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
            raise RequestError(413, "Payload too large")
        more = message.get("more_body", False)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)
