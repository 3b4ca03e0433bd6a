"""The two forms of a request's body: JSON with a base64 image, and an image file as it is."""

from __future__ import annotations

import base64
from typing import Any

from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class ImageBodies:
    """ASGI middleware for LitServe's own route, which takes JSON: wraps an image file in it."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http" or not is_image(dict(scope["headers"]).get(b"content-type", b"")):
            await self.app(scope, receive, send)
            return
        headers = [pair for pair in scope["headers"] if pair[0] not in (b"content-type", b"content-length")]
        headers.append((b"content-type", b"application/json"))
        wrapped = {**scope, "headers": headers}
        sent = False

        async def wrap() -> Message:
            nonlocal sent
            if sent:
                return await receive()
            sent = True
            chunks, more = [], True
            while more:
                message = await receive()
                if message["type"] != "http.request":
                    return message
                chunks.append(message.get("body", b""))
                more = message.get("more_body", False)
            text = base64.b64encode(b"".join(chunks))
            return {"type": "http.request", "body": b'{"image":"' + text + b'"}', "more_body": False}

        await self.app(wrapped, wrap, send)


def is_image(content_type: bytes) -> bool:
    """Whether a body of this type is an image file; anything else is taken for JSON."""
    return content_type.lower().startswith(b"image/")


def document(app: FastAPI, schema: dict[str, Any]) -> None:
    """Have the OpenAPI document describe both forms of the body.

    Args:
        schema: JSON schema of the JSON form.
    """
    content = {
        "application/json": {"schema": schema},
        "image/*": {"schema": {"type": "string", "format": "binary", "description": "an image file"}},
    }
    described = app.openapi

    def openapi() -> dict[str, Any]:
        whole = described()
        whole["paths"]["/predict"]["post"]["requestBody"] = {"required": True, "content": content}
        return whole

    app.openapi = openapi  # type: ignore[method-assign]
