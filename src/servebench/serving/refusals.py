"""How a request is refused: a status and one reason, in FastAPI's own form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi.responses import JSONResponse


def refusal(status: int, reason: str) -> JSONResponse:
    """An error response."""
    return JSONResponse({"detail": reason}, status_code=status)


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
