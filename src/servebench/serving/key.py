"""The API key that strangers lack."""

from __future__ import annotations

import hmac
import os

from starlette.types import ASGIApp, Receive, Scope, Send

from servebench.errors import UsageError
from servebench.serving.refusals import refusal

KEY_VARIABLE = "LIT_SERVER_API_KEY"
"""LitServe's own: the environment variable that holds the key."""
KEY_HEADER = "X-API-Key"

OPEN = frozenset(("/", "/health"))
"""What needs no key: the page, which holds no answer, and what a load balancer looks at."""


def api_key() -> str | None:
    """The key in the environment, None where none is set.

    Raises:
        UsageError: no client could send it in a header.
    """
    key = os.environ.get(KEY_VARIABLE, "")
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise UsageError(f"{KEY_VARIABLE}: expected printable ASCII without spaces")
    return key or None


class ApiKey:
    """ASGI middleware that refuses requests without the key, before their body is read.

    LitServe's own check compares with ``!=``, whose time tells how much of a guess is right, and covers
    neither the direct transport nor ``/metrics`` and ``/docs``.
    """

    def __init__(self, app: ASGIApp, key: str) -> None:
        self.app = app
        self._key = key.encode()
        self._header = KEY_HEADER.lower().encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http" or scope["path"] in OPEN:
            await self.app(scope, receive, send)
            return
        given = next((value for name, value in scope["headers"] if name == self._header), b"")
        if hmac.compare_digest(given, self._key):
            await self.app(scope, receive, send)
        else:
            await refusal(401, f"{KEY_HEADER}: missing or wrong")(scope, receive, send)
