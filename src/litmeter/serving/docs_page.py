"""``/docs`` and ``/redoc``: Swagger UI and ReDoc, served from an installed package.

FastAPI's own pages load both from a CDN, so that they stay blank without a network.
"""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.openapi.docs import get_redoc_html, get_swagger_ui_html
from fastapi.responses import HTMLResponse
from starlette.staticfiles import StaticFiles

from litmeter.serving import page

FASTAPI_PATHS = frozenset(("/docs", "/docs/oauth2-redirect", "/redoc"))
"""FastAPI's routes that are replaced; OAuth is not used."""

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


def headers(sources: str) -> dict[str, str]:
    """Response headers of a page that loads from this server only.

    Args:
        sources: Content-Security-Policy directives for the page's scripts and styles.
    """
    policy = (
        f"default-src 'none'; {sources}; img-src data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return page.HEADERS | {"Content-Security-Policy": policy}


INLINE_SCRIPT = page.hash_source(bytes(SWAGGER.body).decode(), "script")
SWAGGER_HEADERS = headers(f"script-src 'self' {INLINE_SCRIPT}; style-src 'self'")
# ReDoc inserts inline styles, and runs its search in a web worker made from a blob.
REDOC_HEADERS = headers("script-src 'self'; style-src 'unsafe-inline'; worker-src blob:")


def serve_docs(app: FastAPI) -> None:
    """Answer ``GET /docs`` and ``GET /redoc`` in place of FastAPI's own pages.

    With an API key, the pages and their assets need it, too: a browser shows them only behind a proxy that
    adds the header to each request.
    """
    app.router.routes = [
        route for route in app.router.routes if getattr(route, "path", None) not in FASTAPI_PATHS
    ]
    app.mount(f"/{ASSETS}", StaticFiles(packages=[("fastapi_offline", "static")]))

    @app.get("/docs", include_in_schema=False)
    async def swagger() -> HTMLResponse:
        return HTMLResponse(SWAGGER.body, headers=SWAGGER_HEADERS)

    @app.get("/redoc", include_in_schema=False)
    async def redoc() -> HTMLResponse:
        return HTMLResponse(REDOC.body, headers=REDOC_HEADERS)
