"""The two forms of a request's body: JSON with a base64 image, and an image file as it is."""

from __future__ import annotations

import base64
from collections.abc import Mapping

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from servebench.serving.errors import RequestError, refusal

WRONG_TYPE = (
    "Content-Type: neither application/json nor image/*; send an image file as it is, not as a form: "
    "curl --data-binary @photo.jpg -H 'Content-Type: image/jpeg'"
)
EMPTY = "image: the body is empty"


class ImageBodies:
    """ASGI middleware for LitServe's own route, which takes JSON: wraps an image file in it.

    Args:
        max_bytes: of a body; a larger one is refused, unread where its length is announced.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http" or scope["path"] != "/predict" or scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        try:
            if not check_head(dict(scope["headers"]), self._max_bytes):
                await self.app(scope, receive, send)
                return
            body = await read_body(receive, self._max_bytes)
            if not body:
                raise RequestError(400, EMPTY)
            text = base64.b64encode(body)
        except RequestError as error:
            await refusal(error.status, str(error))(scope, receive, send)
            return
        headers = [pair for pair in scope["headers"] if pair[0] not in (b"content-type", b"content-length")]
        headers.append((b"content-type", b"application/json"))
        unread = True

        async def wrapped() -> Message:
            nonlocal unread
            if not unread:
                return await receive()
            unread = False
            return {"type": "http.request", "body": b'{"image":"' + text + b'"}', "more_body": False}

        await self.app({**scope, "headers": headers}, wrapped, send)


def check_head(headers: Mapping[bytes, bytes], max_bytes: int) -> bool:
    """Whether the body that follows is an image file; else it is JSON.

    Raises:
        RequestError: 415 for any other type, 413 where more than ``max_bytes`` are announced.
    """
    kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    is_image = kind.startswith(b"image/")
    if not is_image and kind != b"application/json":
        raise RequestError(415, WRONG_TYPE)
    announced = headers.get(b"content-length", b"0").strip()
    if announced.isdigit() and int(announced) > max_bytes:
        raise RequestError(413, "Payload too large")
    return is_image


async def read_body(receive: Receive, max_bytes: int) -> bytes:
    """The whole body.

    Raises:
        RequestError: 413 as soon as there are more than ``max_bytes``, 400 when the client has gone.
    """
    chunks: list[bytes] = []
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise RequestError(400, "body: not whole")
        chunks.append(message.get("body", b""))
        size += len(chunks[-1])
        if size > max_bytes:
            raise RequestError(413, "Payload too large")
        more = message.get("more_body", False)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)
