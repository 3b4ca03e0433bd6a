"""Errors that refuse a request: HTTP status and reason, as JSON in FastAPI's form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi.responses import JSONResponse

Reply = tuple[int, bytes]
"""HTTP status and JSON body."""


class RequestError(Exception):
    """A request is refused with the HTTP status ``status``."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


def error_response(status: int, reason: str) -> JSONResponse:
    """An error response with the body ``{"detail": reason}``."""
    return JSONResponse({"detail": reason}, status_code=status)


def error_reply(status: int, reason: str) -> Reply:
    """The same error as status and JSON body, for the direct transport."""
    return status, bytes(error_response(status, reason).body)


def validation_error_response(error: Mapping[str, Any], parents: int = 0) -> JSONResponse:
    """The error response to an invalid body, without the body: 400 if it is not JSON, otherwise 422.

    Args:
        error: an item of pydantic's ``ValidationError.errors()``.
        parents: number of leading items of its ``loc`` to leave out.
    """
    if error["type"] == "json_invalid":
        return error_response(400, "body: not JSON")
    field = ".".join(str(part) for part in error["loc"][parents:]) or "body"
    return error_response(422, f"{field}: {error['msg']}")
