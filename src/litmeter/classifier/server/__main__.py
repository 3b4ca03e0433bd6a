"""Serve the exported model in the foreground: ``python -m litmeter.classifier.server OPTIONS``."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter

from litmeter.classifier.model.environment import modules_of
from litmeter.classifier.server.settings import ServerSettings
from litmeter.direct.forkserver import FORKS, start_forkserver
from litmeter.direct.process import serve_by_options
from litmeter.paths import ModelFolders
from litmeter.system.imports import freeze_gc_after


def serve(
    settings: ServerSettings, *, folders: dict[str, str], device: str, null_model: bool, **options: Any
) -> None:
    """Import what serves the model, where workers are forked once for all of them, and serve it."""
    if FORKS:
        direct = settings.transport == "direct"
        loop = "litmeter.direct.worker" if direct else "litmeter.classifier.server.api"
        modules = [] if null_model else modules_of(settings, device)
        start_forkserver([loop, "litmeter.classifier.server.responder", *modules])
    with freeze_gc_after():
        from litmeter.classifier.server.app import serve as serve_model
    where = TypeAdapter(ModelFolders).validate_python(folders)
    serve_model(where, settings, device=device, null_model=null_model, **options)


if __name__ == "__main__":
    serve_by_options(ServerSettings, serve)
