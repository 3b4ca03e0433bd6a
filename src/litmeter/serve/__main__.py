"""Serve a model in the foreground: ``python -m litmeter.serve``, started by ``serving.launcher``."""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import signal
import socket
import sys
from pathlib import Path
from types import FrameType

from litmeter.model.environment import modules_of
from litmeter.params import ServeSettings
from litmeter.paths import ModelFolders
from litmeter.serve.binding import api_key
from litmeter.serve.direct.channel import is_supported
from litmeter.serve.forkserver import FORKS, start_forkserver
from litmeter.system.collector import freeze_gc_after

WORKER = {False: "litmeter.serve.api", True: "litmeter.serve.direct.worker"}
"""What runs in a worker, by whether the transport is the direct one."""


def main() -> None:
    """Serve until SIGTERM or Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m litmeter.serve", description=__doc__)
    parser.add_argument("--exported", type=Path, required=True, help="folder of the exported model")
    parser.add_argument("--compiled", type=Path, required=True, help="folder of the compiled packages")
    parser.add_argument("--settings", required=True, help="ServeSettings as JSON")
    parser.add_argument("--device", choices=("cpu", "cuda"), required=True)
    parser.add_argument("--timeout-s", type=float, required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--listener", type=int, required=True, help="descriptor of a socket bound to them")
    parser.add_argument("--certificate", help="PEM file; with --certificate-key, for HTTPS")
    parser.add_argument("--certificate-key", help="PEM file")
    parser.add_argument("--null-model", action="store_true", help="a model that does nothing")
    parser.add_argument("--no-metrics", action="store_true", help="no /metrics, and no metrics collected")
    parser.add_argument("--no-docs", action="store_true", help="no /docs, /redoc and /openapi.json")
    options = parser.parse_args()
    settings = ServeSettings.model_validate_json(options.settings)
    signal.signal(signal.SIGTERM, _interrupt)
    if FORKS:
        direct = settings.transport == "direct" and is_supported()
        start_forkserver([WORKER[direct], *([] if options.null_model else modules_of(settings))])
    try:
        with freeze_gc_after():
            from litmeter.serve.app import AppOptions, build_server, listen_on
        listen_on(socket.socket(fileno=options.listener))
        serve = build_server(
            ModelFolders(options.exported, options.compiled),
            settings,
            AppOptions(
                options.device,
                options.timeout_s,
                null_model=options.null_model,
                metrics=not options.no_metrics,
                docs=not options.no_docs,
                key=api_key(),
            ),
        )
        serve(
            host=options.host,
            port=options.port,
            ssl_certfile=options.certificate,
            ssl_keyfile=options.certificate_key,
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
