"""What a browser gets: the page at ``/``, ``/docs`` and ``/redoc``, and the OpenAPI document behind these.

All load from this server only. FastAPI's own pages load Swagger UI and ReDoc from a CDN, so that they stay
blank without a network; and it documents LitServe's route only: not the middleware's image bodies and errors,
nor the content of an answer.
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
from fastapi.openapi.docs import get_redoc_html, get_swagger_ui_html
from fastapi.responses import HTMLResponse
from starlette.staticfiles import StaticFiles

PAGE = files(__package__).joinpath("page.html").read_text(encoding="utf-8")


def hash_source(page: str, tag: str) -> str:
    """The Content-Security-Policy hash source of the inline ``tag`` (script or style) of ``page``."""
    found = re.search(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
    assert found is not None
    digest = hashlib.sha256(found[1].encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def headers(sources: str) -> dict[str, str]:
    """Response headers of a page that loads from this server only, with its own CSP directives."""
    return {
        "Content-Security-Policy": f"default-src 'none'; {sources}; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "no-cache",
    }


PAGE_HEADERS = headers(
    f"script-src {hash_source(PAGE, 'script')}; style-src {hash_source(PAGE, 'style')}; img-src blob: data:"
)

# Links are relative, so that they work behind a proxy with a path prefix.
ASSETS = "docs/assets"
OPENAPI_URL = "openapi.json"
TITLE = "litmeter: the API"
NO_ICON = "data:,"

SWAGGER = get_swagger_ui_html(
    openapi_url=OPENAPI_URL,
    title=TITLE,
    swagger_js_url=f"{ASSETS}/swagger-ui-bundle.js",
    swagger_css_url=f"{ASSETS}/swagger-ui.css",
    swagger_favicon_url=NO_ICON,
)
REDOC = get_redoc_html(
    openapi_url=OPENAPI_URL,
    title=TITLE,
    redoc_js_url=f"{ASSETS}/redoc.standalone.js",
    redoc_favicon_url=NO_ICON,
    with_google_fonts=False,
)

INLINE_SCRIPT = hash_source(bytes(SWAGGER.body).decode(), "script")
SWAGGER_HEADERS = headers(f"script-src 'self' {INLINE_SCRIPT}; style-src 'self'; img-src data:")
# ReDoc inserts inline styles, and runs its search in a web worker made from a blob.
REDOC_HEADERS = headers("script-src 'self'; style-src 'unsafe-inline'; worker-src blob:; img-src data:")


def serve_pages(app: FastAPI, *, docs: bool) -> None:
    """Answer ``GET /`` in place of LitServe, and ``/docs`` and ``/redoc`` in place of FastAPI.

    With an API key, the last two and their assets need it, too: a browser shows them only behind a proxy that
    adds the header to each request.
    """
    replaced = ("/", "/docs", "/docs/oauth2-redirect", "/redoc")
    app.router.routes = [route for route in app.router.routes if getattr(route, "path", None) not in replaced]

    @app.get("/", include_in_schema=False)
    async def page() -> HTMLResponse:
        return HTMLResponse(PAGE, headers=PAGE_HEADERS)

    if not docs:
        return
    app.mount(f"/{ASSETS}", StaticFiles(packages=[("fastapi_offline", "static")]))

    @app.get("/docs", include_in_schema=False)
    async def swagger() -> HTMLResponse:
        return HTMLResponse(SWAGGER.body, headers=SWAGGER_HEADERS)

    @app.get("/redoc", include_in_schema=False)
    async def redoc() -> HTMLResponse:
        return HTMLResponse(REDOC.body, headers=REDOC_HEADERS)


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
    """Add to the OpenAPI document both forms of the request body (``body``: that of JSON) and all answers."""
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
