"""Serve a model in the foreground: ``python -m litmeter.serve OPTIONS``, started by ``serve.launcher``."""

from __future__ import annotations

import json
import logging
import multiprocessing
import signal
import socket
import sys
from functools import partial
from types import FrameType
from typing import Any

from pydantic import TypeAdapter

from litmeter.errors import LitmeterError
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
    if settings.transport == "direct" and not is_supported():
        print("transport: this system has no SOCK_SEQPACKET; LitServe's own is used", file=sys.stderr)
        settings = settings.model_copy(update={"transport": "litserve"})
    serve = _serve_api if settings.kind == "api" else partial(_serve_classifier, folders)
    try:
        serve(settings, binding=binding, listener=listener, key=api_key(), **options)
    except LitmeterError as error:
        print(f"litmeter: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:  # LitServe does not handle one while it starts
        for child in multiprocessing.active_children():
            child.kill()


def _serve_api(settings: ServeSettings, **options: Any) -> None:
    if settings.transport == "direct":  # LitServe spawns its own workers
        start_forkserver(["litmeter.serve.direct.worker", "litmeter.serve.lit_api"])
    from litmeter.serve.lit_api import serve_api

    serve_api(settings, **options)


def _serve_classifier(
    folders: ModelFolders, settings: ServeSettings, *, device: str, null_model: bool, **options: Any
) -> None:
    if FORKS:
        own = ["direct.worker", "classifier"] if settings.transport == "direct" else ["api"]
        modules = [] if null_model else modules_of(settings, device)
        start_forkserver([*(f"litmeter.serve.{name}" for name in own), *modules])
    with freeze_gc_after():
        from litmeter.serve.app import serve
    serve(folders, settings, device=device, null_model=null_model, **options)


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
