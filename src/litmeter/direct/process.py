"""The main process of a server: ``python -m MODULE OPTIONS``, which ``kinds.server`` starts."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any, TypeVar

from pydantic import TypeAdapter

from litmeter.direct.binding import KWARGS_VARIABLE, Binding, api_key
from litmeter.direct.channel import is_supported
from litmeter.direct.settings import WorkerSettings
from litmeter.errors import LitmeterError

Settings = TypeVar("Settings", bound=WorkerSettings)


def serve_by_options(kind: type[Settings], serve: Callable[..., None]) -> None:
    """Serve until SIGTERM or Ctrl-C, as the JSON of ``kinds.server.worker_words`` says.

    Args:
        kind: class of the settings.
        serve: called with the settings and the other options.
    """
    with suppress(ValueError, OSError):  # macOS has a lower limit besides
        resource.setrlimit(files := resource.RLIMIT_NOFILE, 2 * resource.getrlimit(files)[1:])
    options: dict[str, Any] = json.loads(sys.argv.pop(1))  # a LitAPI may read sys.argv
    if KWARGS_VARIABLE in os.environ:
        options["settings"]["api_kwargs"] = json.loads(os.environ.pop(KWARGS_VARIABLE))
    settings = kind.model_validate(options.pop("settings"))
    binding = TypeAdapter(Binding).validate_python(options.pop("binding"))
    listener = socket.socket(fileno=options.pop("listener"))
    signal.signal(signal.SIGTERM, _interrupt)
    if settings.transport == "direct" and not is_supported():
        print("transport: this system has no SOCK_SEQPACKET; LitServe's queues are used", file=sys.stderr)
        settings = settings.model_copy(update={"transport": "litserve"})
    try:
        serve(settings, binding=binding, listener=listener, key=api_key(), **options)
    except LitmeterError as error:
        print(f"litmeter: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:  # LitServe does not handle Ctrl-C while it starts
        for child in multiprocessing.active_children():
            child.kill()


def _interrupt(signum: int, frame: FrameType | None) -> None:
    """Handle SIGTERM as Ctrl-C: LitServe shuts down on Ctrl-C alone.

    The HTTP process inherits this handler; uvicorn raises the signal there again after it has stopped.
    """
    if multiprocessing.parent_process() is not None:
        sys.exit(128 + signum)
    # LitServe's monitor would report workers as dead that LitServe itself stops.
    logging.getLogger("litserve.server").setLevel(logging.CRITICAL)
    raise KeyboardInterrupt
