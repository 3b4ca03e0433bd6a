"""The API key that strangers lack."""

from __future__ import annotations

import hmac
import os
from collections.abc import Iterable

from starlette.types import ASGIApp, Receive, Scope, Send

from servebench.errors import UsageError
from servebench.serving.errors import refusal

KEY_VARIABLE = "LIT_SERVER_API_KEY"
"""LitServe's own: the environment variable that holds the key."""
KEY_HEADER = "X-API-Key"
_HEADER = KEY_HEADER.lower().encode()

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


def has_key(headers: Iterable[tuple[bytes, bytes]], key: str) -> bool:
    """Whether a request brings the key; the time that this takes does not tell how much of it is right.

    Args:
        headers: names in lower case, and values.
    """
    given = next((value for name, value in headers if name == _HEADER), b"")
    return hmac.compare_digest(given, key.encode())


class ApiKey:
    """ASGI middleware that refuses requests without the key, before their body is read.

    LitServe's own check compares with ``!=``, whose time tells how much of a guess is right, and covers
    neither the direct transport nor ``/metrics`` and ``/docs``.
    """

    def __init__(self, app: ASGIApp, key: str) -> None:
        self.app = app
        self._key = key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http" or scope["path"] in OPEN:
            await self.app(scope, receive, send)
            return
        if has_key(scope["headers"], self._key):
            await self.app(scope, receive, send)
        else:
            await refusal(401, f"{KEY_HEADER}: missing or wrong")(scope, receive, send)
