"""The page at ``/`` to try the server: one HTML file without external resources."""

from __future__ import annotations

import base64
import hashlib
import re
from importlib.resources import files

from fastapi import FastAPI
from fastapi.responses import HTMLResponse

PAGE = files("litmeter.serving").joinpath("page.html").read_text(encoding="utf-8")


def hash_source(page: str, tag: str) -> str:
    """The Content-Security-Policy hash source of the inline ``tag`` (script or style) of ``page``."""
    found = re.search(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
    assert found is not None
    digest = hashlib.sha256(found[1].encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


HEADERS = {
    "Content-Security-Policy": f"default-src 'none'; script-src {hash_source(PAGE, 'script')}; "
    f"style-src {hash_source(PAGE, 'style')}; img-src blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


def serve_page(app: FastAPI) -> None:
    """Answer ``GET /`` with the page, in place of LitServe's route."""
    app.router.routes = [route for route in app.router.routes if getattr(route, "path", None) != "/"]

    @app.get("/", include_in_schema=False)
    async def page() -> HTMLResponse:
        return HTMLResponse(PAGE, headers=HEADERS)
