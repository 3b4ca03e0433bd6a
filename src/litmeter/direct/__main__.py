"""Serve a LitAPI in the foreground: ``python -m litmeter.direct OPTIONS``."""

from __future__ import annotations

from typing import Any

from litmeter.direct.forkserver import start_forkserver
from litmeter.direct.process import serve_by_options
from litmeter.direct.settings import LitApiSettings


def serve(settings: LitApiSettings, **options: Any) -> None:
    """Start the forkserver before this process imports LitServe: both import at the same time."""
    if settings.transport == "direct":  # LitServe spawns its own workers
        start_forkserver(["litmeter.direct.worker", "litmeter.direct.lit_api"])
    from litmeter.direct.lit_api import serve_api

    serve_api(settings, **options)


if __name__ == "__main__":
    serve_by_options(LitApiSettings, serve)
