"""Errors that refuse a request: HTTP status and reason, as JSON in FastAPI's form."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple


class Reply(NamedTuple):
    """HTTP status and JSON body."""

    status: int
    body: bytes


class RequestError(Exception):
    """A request is refused with ``reply``."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.reply = error_reply(status, reason)


def error_reply(status: int, reason: str) -> Reply:
    """A refusal with the body ``{"detail": reason}``."""
    return Reply(status, json.dumps({"detail": reason}, ensure_ascii=False, separators=(",", ":")).encode())


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
