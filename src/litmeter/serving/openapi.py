"""Completes the server's OpenAPI document.

FastAPI documents LitServe's route only: not the middleware's image bodies and errors, nor the content of an
answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI

ERRORS = {
    400: "not JSON, not base64, or not a whole image",
    401: "the server asks for an API key, in the header X-API-Key",
    408: "the request took too long to arrive",
    413: "too many bytes, pixels or scans, or one side too long for the other",
    415: "neither JSON nor an image file",
    422: "JSON of another form",
    431: "the head of the request is too large",
    503: "too many requests, or the worker that had this one died: try again",
    504: "no worker was free in time",
}
ERROR_SCHEMA = {
    "title": "Refusal",
    "type": "object",
    "properties": {"detail": {"type": "string", "description": "the reason"}},
    "required": ["detail"],
}
HEALTH_STATUSES = {200: "requests are answered", 503: "they are not"}
"""Meaning of the statuses of ``/health``."""


def extend_openapi(app: FastAPI, body: dict[str, Any], classes: Sequence[str]) -> None:
    """Add both forms of the request body and all answers to the OpenAPI document of ``app``.

    Args:
        body: JSON schema of the JSON form.
        classes: names of the classes.
    """
    fastapi_openapi = app.openapi

    def openapi() -> dict[str, Any]:
        document = fastapi_openapi()
        document["info"] = {"title": "litmeter", "version": version("litmeter")}
        paths = document["paths"]
        paths["/predict"]["post"] |= {
            "summary": "Classify an image",
            "requestBody": {"required": True, "content": _bodies(body)},
            "responses": {"200": _json("the class, and how sure that is", _prediction(classes))}
            | {str(status): _json(reason, ERROR_SCHEMA) for status, reason in ERRORS.items()},
        }
        paths["/info"]["get"]["responses"] = {"200": _json("model and settings", {"type": "object"})}
        paths["/health"]["get"]["responses"] = {
            str(status): {"description": meaning} for status, meaning in HEALTH_STATUSES.items()
        }
        if "/metrics" in paths:
            paths["/metrics"]["get"]["responses"] = {"200": _text("Prometheus' text format")}
        return document

    app.openapi = openapi  # type: ignore[method-assign]


def _bodies(body: dict[str, Any]) -> dict[str, Any]:
    file = {"type": "string", "format": "binary", "description": "an image file (JPEG, PNG, WebP or GIF)"}
    return {"application/json": {"schema": body}, "image/*": {"schema": file}}


def _prediction(classes: Sequence[str]) -> dict[str, Any]:
    probability = {"type": "number", "minimum": 0, "maximum": 1}
    return {
        "title": "Prediction",
        "type": "object",
        "properties": {
            "label": {"enum": list(classes), "description": "the most probable class"},
            "probability": probability | {"description": "of the label"},
            "probabilities": {
                "type": "object",
                "properties": {name: probability for name in classes},
                "required": list(classes),
            },
        },
        "required": ["label", "probability", "probabilities"],
    }


def _json(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _text(description: str) -> dict[str, Any]:
    return {"description": description, "content": {"text/plain": {"schema": {"type": "string"}}}}
