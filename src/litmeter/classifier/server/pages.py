"""The page at ``/``, which loads nothing from other servers, and the OpenAPI document at ``/openapi.json``.

FastAPI's ``/docs`` and ``/redoc`` load their scripts from a CDN, so they are left out. FastAPI documents
LitServe's route alone: the image bodies and errors of the middleware and the content of an answer are added.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from importlib.metadata import version
from importlib.resources import files
from typing import Any

from fastapi import FastAPI
from fastapi.responses import HTMLResponse

PAGE = files(__package__).joinpath("page.html").read_text(encoding="utf-8")


def hash_source(tag: str) -> str:
    """The Content-Security-Policy hash source of the page's inline ``tag``, script or style."""
    found = re.search(f"<{tag}>(.*?)</{tag}>", PAGE, re.DOTALL)
    assert found is not None
    digest = hashlib.sha256(found[1].encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


PAGE_HEADERS = {
    "Content-Security-Policy": f"default-src 'none'; script-src {hash_source('script')}; "
    f"style-src {hash_source('style')}; img-src blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


def serve_page(app: FastAPI) -> None:
    """Answer GET / by the page, in place of LitServe and FastAPI's pages."""
    replaced = ("/", "/docs", "/docs/oauth2-redirect", "/redoc")
    app.router.routes = [route for route in app.router.routes if getattr(route, "path", None) not in replaced]

    @app.get("/", include_in_schema=False)
    async def page() -> HTMLResponse:
        return HTMLResponse(PAGE, headers=PAGE_HEADERS)


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


def extend_openapi(app: FastAPI, body: dict[str, Any], classes: Sequence[str]) -> None:
    """Document both forms of the request body (``body`` is the schema of JSON) and all answers."""
    fastapi_openapi = app.openapi
    probability = {"type": "number", "minimum": 0, "maximum": 1}
    prediction = {
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
    file = {"type": "string", "format": "binary", "description": "an image file (JPEG, PNG, WebP or GIF)"}

    def openapi() -> dict[str, Any]:
        document = fastapi_openapi()
        document["info"] = {"title": "litmeter", "version": version("litmeter")}
        paths = document["paths"]
        paths["/predict"]["post"] |= {
            "summary": "Classify an image",
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": body}, "image/*": {"schema": file}},
            },
            "responses": {"200": _answer("the class, and how sure that is", prediction)}
            | {str(status): _answer(reason, ERROR_SCHEMA) for status, reason in ERRORS.items()},
        }
        paths["/info"]["get"]["responses"] = {"200": _answer("model and settings", {"type": "object"})}
        paths["/health"]["get"]["responses"] = {
            "200": {"description": "requests are answered"},
            "503": {"description": "they are not"},
        }
        if "/metrics" in paths:
            text = _answer("Prometheus' text format", {"type": "string"}, "text/plain")
            paths["/metrics"]["get"]["responses"] = {"200": text}
        return document

    app.openapi = openapi  # type: ignore[method-assign]


def _answer(description: str, schema: dict[str, Any], media: str = "application/json") -> dict[str, Any]:
    return {"description": description, "content": {media: {"schema": schema}}}
