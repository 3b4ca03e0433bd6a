"""Serve a model in the foreground: ``python -m litmeter.serve OPTIONS``, started by ``serve.launcher``."""

from __future__ import annotations

import json
import logging
import multiprocessing
import signal
import socket
import sys
from types import FrameType
from typing import Any

from pydantic import TypeAdapter

from litmeter.model.environment import modules_of
from litmeter.params import ServeSettings
from litmeter.paths import ModelFolders
from litmeter.serve.binding import Binding, api_key
from litmeter.serve.direct.channel import is_supported
from litmeter.serve.forkserver import FORKS, start_forkserver
from litmeter.system.imports import freeze_gc_after


def main() -> None:
    """Serve until SIGTERM or Ctrl-C, as the JSON of ``launcher.server_command`` says."""
    options: dict[str, Any] = json.loads(sys.argv.pop(1))  # a LitAPI finds no arguments that are not its own
    settings = ServeSettings.model_validate(options.pop("settings"))
    folders = TypeAdapter(ModelFolders).validate_python(options.pop("folders"))
    binding = TypeAdapter(Binding).validate_python(options.pop("binding"))
    listener = socket.socket(fileno=options.pop("listener"))
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        if settings.kind == "api":
            from litmeter.serve.lit_api import serve_api

            serve_api(settings, binding, listener, **options)
        else:
            _serve_classifier(folders, settings, binding, listener, **options)
    except KeyboardInterrupt:  # LitServe does not handle one while it starts
        for child in multiprocessing.active_children():
            child.kill()


def _serve_classifier(
    folders: ModelFolders,
    settings: ServeSettings,
    binding: Binding,
    listener: socket.socket,
    *,
    null_model: bool,
    **options: Any,
) -> None:
    direct = settings.transport == "direct" and is_supported()
    if settings.transport == "direct" and not direct:
        print("transport: this system has no SOCK_SEQPACKET; LitServe's own is used", file=sys.stderr)
    if FORKS:
        worker = "litmeter.serve.direct.worker" if direct else "litmeter.serve.api"
        start_forkserver([worker, *([] if null_model else modules_of(settings))])
    with freeze_gc_after():
        from litmeter.serve.app import serve
    serve(
        folders, settings, binding, listener, direct=direct, null_model=null_model, key=api_key(), **options
    )


def _interrupt(signum: int, frame: FrameType | None) -> None:
    """Handle SIGTERM as Ctrl-C, on which alone LitServe shuts down.

    The HTTP process inherits this handler; uvicorn raises the signal again there once it has stopped.
    """
    if multiprocessing.parent_process() is not None:
        sys.exit(128 + signum)
    # LitServe's monitor would report the workers that LitServe itself stops as dead.
    logging.getLogger("litserve.server").setLevel(logging.CRITICAL)
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
