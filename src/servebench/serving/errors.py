"""How a request is refused: a status and one reason, in FastAPI's own form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi.responses import JSONResponse

Reply = tuple[int, bytes]
"""HTTP status and JSON body."""


class RequestError(Exception):
    """A request that is not taken; ``status`` is the HTTP status that says so."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


def refusal(status: int, reason: str) -> JSONResponse:
    """An error response."""
    return JSONResponse({"detail": reason}, status_code=status)


def reply(status: int, reason: str) -> Reply:
    """The same as status and body, for what answers without FastAPI."""
    return status, bytes(refusal(status, reason).body)


def invalid(error: Mapping[str, Any], parents: int = 0) -> JSONResponse:
    """The refusal of a body that does not fit its schema, without repeating the body to its sender.

    Args:
        error: one of pydantic's.
        parents: how many parts of its place lie above the body.
    """
    if error["type"] == "json_invalid":
        return refusal(400, "body: not JSON")
    field = ".".join(str(part) for part in error["loc"][parents:]) or "body"
    return refusal(422, f"{field}: {error['msg']}")
