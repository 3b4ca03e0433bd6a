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
    options: dict[str, Any] = json.loads(sys.argv[1])
    settings = ServeSettings.model_validate(options.pop("settings"))
    direct = settings.transport == "direct" and is_supported()
    if settings.transport == "direct" and not direct:
        print("transport: this system has no SOCK_SEQPACKET; LitServe's own is used", file=sys.stderr)
    signal.signal(signal.SIGTERM, _interrupt)
    if FORKS:
        worker = "litmeter.serve.direct.worker" if direct else "litmeter.serve.api"
        start_forkserver([worker, *([] if options["null_model"] else modules_of(settings))])
    try:
        with freeze_gc_after():
            from litmeter.serve.app import serve
        serve(
            TypeAdapter(ModelFolders).validate_python(options.pop("folders")),
            settings,
            TypeAdapter(Binding).validate_python(options.pop("binding")),
            socket.socket(fileno=options.pop("listener")),
            direct=direct,
            key=api_key(),
            **options,
        )
    except KeyboardInterrupt:  # LitServe does not handle one while it starts
        for child in multiprocessing.active_children():
            child.kill()


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
