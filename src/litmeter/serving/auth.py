"""Authentication by an API key in a header."""

from __future__ import annotations

import hmac
import os
from collections.abc import Iterable

from starlette.types import ASGIApp, Receive, Scope, Send

from litmeter.errors import UsageError
from litmeter.serving.errors import error_reply
from litmeter.serving.responses import response_of

KEY_VARIABLE = "LIT_SERVER_API_KEY"
"""Environment variable that holds the key, the same as LitServe's."""
KEY_HEADER = "X-API-Key"
_HEADER_NAME = KEY_HEADER.lower().encode()

PUBLIC_PATHS = frozenset(("/", "/health"))
"""Paths that need no key: the page, which holds no data, and the load balancer's health check."""


def api_key() -> str | None:
    """The key in the environment, None if there is none.

    Raises:
        UsageError: the key cannot be sent in a header.
    """
    key = os.environ.get(KEY_VARIABLE, "")
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise UsageError(f"{KEY_VARIABLE}: expected printable ASCII without spaces")
    return key or None


def has_key(headers: Iterable[tuple[bytes, bytes]], key: str) -> bool:
    """Whether a request has the key, compared in constant time.

    Args:
        headers: pairs of a name in lower case and a value.
    """
    given = next((value for name, value in headers if name == _HEADER_NAME), b"")
    return hmac.compare_digest(given, key.encode())


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
        if scope["type"] != "http" or scope["path"] in PUBLIC_PATHS:
            await self.app(scope, receive, send)
            return
        if has_key(scope["headers"], self._key):
            await self.app(scope, receive, send)
        else:
            await response_of(error_reply(401, f"{KEY_HEADER}: missing or wrong"))(scope, receive, send)
