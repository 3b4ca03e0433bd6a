"""``/docs`` and ``/redoc``: Swagger UI and ReDoc, out of an installed package.

FastAPI's own pages have the browser fetch both from a CDN: without a network they stay blank.
"""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.openapi.docs import get_redoc_html, get_swagger_ui_html
from fastapi.responses import HTMLResponse
from starlette.staticfiles import StaticFiles

from servebench.serving import page

FASTAPIS_OWN = frozenset(("/docs", "/docs/oauth2-redirect", "/redoc"))
"""What is replaced; nothing here uses OAuth."""

# Links are relative, so that they hold behind a proxy's path as well.
ASSETS = "docs/assets"
DOCUMENT = "openapi.json"
TITLE = "servebench: the API"
NO_ICON = "data:,"

SWAGGER = get_swagger_ui_html(
    openapi_url=DOCUMENT,
    title=TITLE,
    swagger_js_url=f"{ASSETS}/swagger-ui-bundle.js",
    swagger_css_url=f"{ASSETS}/swagger-ui.css",
    swagger_favicon_url=NO_ICON,
)
REDOC = get_redoc_html(
    openapi_url=DOCUMENT,
    title=TITLE,
    redoc_js_url=f"{ASSETS}/redoc.standalone.js",
    redoc_favicon_url=NO_ICON,
    with_google_fonts=False,
)


def headers(sources: str) -> dict[str, str]:
    """Of a page that loads what this server holds, and nothing from elsewhere.

    Args:
        sources: Content-Security-Policy directives for its scripts and styles.
    """
    policy = (
        f"default-src 'none'; {sources}; img-src data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return page.HEADERS | {"Content-Security-Policy": policy}


INLINE = page.source(bytes(SWAGGER.body).decode(), "script")
SWAGGER_HEADERS = headers(f"script-src 'self' {INLINE}; style-src 'self'")
# ReDoc writes its styles as it goes, and searches in a worker that it makes of a blob.
REDOC_HEADERS = headers("script-src 'self'; style-src 'unsafe-inline'; worker-src blob:")


def serve_docs(app: FastAPI) -> None:
    """Answer ``GET /docs`` and ``GET /redoc`` in place of FastAPI's own pages.

    With an API key, the pages and all that they load ask for it, like everything else: a browser shows
    them only where something adds the header to each of its requests, as a proxy can.
    """
    app.router.routes = [
        route for route in app.router.routes if getattr(route, "path", None) not in FASTAPIS_OWN
    ]
    app.mount(f"/{ASSETS}", StaticFiles(packages=[("fastapi_offline", "static")]))

    @app.get("/docs", include_in_schema=False)
    async def swagger() -> HTMLResponse:
        return HTMLResponse(SWAGGER.body, headers=SWAGGER_HEADERS)

    @app.get("/redoc", include_in_schema=False)
    async def redoc() -> HTMLResponse:
        return HTMLResponse(REDOC.body, headers=REDOC_HEADERS)
