"""What passes between the HTTP process and a worker: a request and its reply; and errors that refuse one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

SETUP_FAILED = 70
"""Exit status of a worker whose ``setup`` has failed, which it has said."""
Headers = tuple[tuple[bytes, bytes], ...]
JSON: Headers = ((b"content-type", b"application/json"),)


class Request(NamedTuple):
    """A request as a worker receives it: nothing of it has been parsed."""

    slot: int
    content_type: bytes  # empty where the head has none
    received: float  # when the HTTP process had read the whole body (monotonic clock, seconds)
    body: bytes


class Reply(NamedTuple):
    """HTTP status, body and headers; these leave out Content-Length, which the HTTP process adds."""

    status: int
    body: bytes
    headers: Headers = JSON


class RequestError(Exception):
    """A request is refused with ``reply``."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.reply = error_reply(status, reason)


def error_reply(status: int, reason: str) -> Reply:
    """A refusal with the body ``{"detail": reason}``, as FastAPI's are; 503 says when to try again."""
    body = json.dumps({"detail": reason}, ensure_ascii=False, separators=(",", ":")).encode()
    return Reply(status, body, (*JSON, (b"retry-after", b"1")) if status == 503 else JSON)


def too_large(max_bytes: int) -> str:
    """Why a body, or an image in it, is refused with 413."""
    return f"too large; {max_bytes:,} bytes are allowed"


def invalid_body_reply(error: Mapping[str, Any], parents: int = 0) -> Reply:
    """The refusal of an invalid body, without the body: 400 if it is not JSON, otherwise 422.

    Args:
        error: an item of pydantic's ``ValidationError.errors()``.
        parents: number of leading items of its ``loc`` to leave out.
    """
    if error["type"] == "json_invalid":
        return error_reply(400, "body: not JSON")
    field = ".".join(str(part) for part in error["loc"][parents:]) or "body"
    return error_reply(422, f"{field}: {error['msg']}")
