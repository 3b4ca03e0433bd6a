"""The server's OpenAPI document, where FastAPI knows less than is true.

It cannot see what stands in front of LitServe's route, nor what an answer consists of.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI

REFUSALS = {
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
REFUSAL = {
    "title": "Refusal",
    "type": "object",
    "properties": {"detail": {"type": "string", "description": "the reason"}},
    "required": ["detail"],
}
HEALTH = {200: "requests are answered", 503: "they are not"}
"""LitServe's own: a word, without a content type."""


def document(app: FastAPI, body: dict[str, Any], classes: Sequence[str]) -> None:
    """Have the OpenAPI document describe both forms of the body, and every answer.

    Args:
        body: JSON schema of the JSON form.
        classes: what an image can be.
    """
    described = app.openapi

    def openapi() -> dict[str, Any]:
        whole = described()
        whole["info"] = {"title": "servebench", "version": version("servebench")}
        paths = whole["paths"]
        paths["/predict"]["post"] |= {
            "summary": "Classify an image",
            "requestBody": {"required": True, "content": _bodies(body)},
            "responses": {"200": _json("the class, and how sure that is", _prediction(classes))}
            | {str(status): _json(reason, REFUSAL) for status, reason in REFUSALS.items()},
        }
        paths["/info"]["get"]["responses"] = {"200": _json("model and settings", {"type": "object"})}
        paths["/health"]["get"]["responses"] = {
            str(status): {"description": what} for status, what in HEALTH.items()
        }
        if "/metrics" in paths:
            paths["/metrics"]["get"]["responses"] = {"200": _text("Prometheus' text format")}
        return whole

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


def _json(what: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": what, "content": {"application/json": {"schema": schema}}}


def _text(what: str) -> dict[str, Any]:
    return {"description": what, "content": {"text/plain": {"schema": {"type": "string"}}}}
