"""Requests and replies between the HTTP process and a worker, and errors that refuse a request."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

SETUP_FAILED = 70
"""Exit status of a worker that has reported its failed ``setup``."""
Headers = tuple[tuple[bytes, bytes], ...]
JSON: Headers = ((b"content-type", b"application/json"),)


class Request(NamedTuple):
    """A request as a worker receives it, unparsed."""

    slot: int
    content_type: bytes  # empty without the header
    received: float  # when the HTTP process had read the whole body (monotonic clock, seconds)
    body: bytes


class Reply(NamedTuple):
    """HTTP status, body, and headers without Content-Length, which the HTTP process adds."""

    status: int
    body: bytes
    headers: Headers = JSON


class RequestError(Exception):
    """The request is refused with ``reply``."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply)
        self.reply = reply


def error_reply(status: int, reason: str) -> Reply:
    """A refusal with FastAPI's body ``{"detail": reason}``; status 503 has a Retry-After header."""
    body = json.dumps({"detail": reason}, ensure_ascii=False, separators=(",", ":")).encode()
    return Reply(status, body, (*JSON, (b"retry-after", b"1")) if status == 503 else JSON)


OUT_OF_RESOURCES = error_reply(503, "no memory or file handle left for this request; try again later")


def too_large(max_bytes: int) -> str:
    """The reason of status 413."""
    return f"too large; {max_bytes:,} bytes are allowed"


def invalid_body_reply(error: Mapping[str, Any], parents: int = 0) -> Reply:
    """The refusal of an invalid body, which is not repeated: 400 for no JSON, otherwise 422.

    Args:
        error: an item of pydantic's ``ValidationError.errors()``.
        parents: number of leading items of the error's ``loc`` to leave out.
    """
    if error["type"] == "json_invalid":
        return error_reply(400, "body: not JSON")
    field = ".".join(str(part) for part in error["loc"][parents:]) or "body"
    return error_reply(422, f"{field}: {error['msg']}")
