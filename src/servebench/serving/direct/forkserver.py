"""The process that workers are forked from, which has imported what they need (multiprocessing's forkserver).

Importing torch takes a second of CPU time and more than 100 MiB. Forked workers have both at once and in
common, and a worker that died is replaced without importing anything. Forking is safe there: importing
touches no GPU, and the only threads that it starts, OpenBLAS's, end before a fork.
"""

from __future__ import annotations

import multiprocessing
import signal
from multiprocessing.forkserver import ensure_running
from multiprocessing.resource_tracker import ensure_running as ensure_resource_tracker

from servebench.system.signals import TERMINATION_SIGNALS

WORKERS = multiprocessing.get_context("forkserver")
"""The context that workers are started in."""
LIFETIME = "servebench.serving.direct.lifetime"
IMPORTS = "servebench.serving.direct.imports"
"""Modules that it imports."""


def start_forkserver(*, imports: bool) -> None:
    """Start it; it imports while this process goes on.

    Workers inherit from it that SIGTERM and SIGINT are blocked, as only the main process decides what to
    do. The resource tracker would unblock them again, so it starts before.

    Args:
        imports: whether it imports what workers with a model need.
    """
    WORKERS.set_forkserver_preload([LIFETIME, *([IMPORTS] if imports else [])])
    ensure_resource_tracker()
    signal.pthread_sigmask(signal.SIG_BLOCK, TERMINATION_SIGNALS)
    ensure_running()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, TERMINATION_SIGNALS)
