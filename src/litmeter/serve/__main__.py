"""Serve a model in the foreground: ``python -m litmeter.serve OPTIONS``, started by ``serve.launcher``."""

from __future__ import annotations

import json
import logging
import multiprocessing
import signal
import socket
import sys
from pathlib import Path
from types import FrameType
from typing import Any

from litmeter.model.environment import modules_of
from litmeter.params import ServeSettings
from litmeter.paths import ModelFolders
from litmeter.serve.binding import api_key
from litmeter.serve.direct.channel import is_supported
from litmeter.serve.forkserver import FORKS, start_forkserver
from litmeter.system.imports import freeze_gc_after

WORKER = {False: "litmeter.serve.api", True: "litmeter.serve.direct.worker"}
"""What runs in a worker, by whether the transport is the direct one."""


def main() -> None:
    """Serve until SIGTERM or Ctrl-C, as the JSON of ``launcher.server_command`` says."""
    options: dict[str, Any] = json.loads(sys.argv[1])
    settings = ServeSettings.model_validate(options["settings"])
    signal.signal(signal.SIGTERM, _interrupt)
    if FORKS:
        direct = settings.transport == "direct" and is_supported()
        start_forkserver([WORKER[direct], *([] if options["null_model"] else modules_of(settings))])
    try:
        with freeze_gc_after():
            from litmeter.serve.app import AppOptions, build_server, listen_on
        listen_on(socket.socket(fileno=options["listener"]))
        own = ("device", "timeout_s", "null_model", "metrics", "docs")
        serve = build_server(
            ModelFolders(Path(options["exported"]), Path(options["compiled"])),
            settings,
            AppOptions(**{name: options[name] for name in own}, key=api_key()),
        )
        serve(
            host=options["host"],
            port=options["port"],
            ssl_certfile=options["certificate"],
            ssl_keyfile=options["certificate_key"],
            log_level="warning",
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
