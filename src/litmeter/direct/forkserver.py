"""The process that workers are forked from, which has imported what they need (multiprocessing's forkserver).

Importing torch and timm takes seconds of CPU time and more than 100 MiB. Forked workers have both at once
and in common, and a worker that died is replaced without importing anything. A server of two workers takes
1.7 s less CPU time until its first answer than one whose workers import for themselves. Forking is safe:
importing touches no GPU, and the only threads that it starts, OpenBLAS's, end before a fork. On macOS, whose
own libraries may not survive a fork, LitServe spawns its workers.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Sequence
from multiprocessing.forkserver import ensure_running
from multiprocessing.resource_tracker import ensure_running as ensure_resource_tracker

from litmeter.system.signals import TERMINATION_SIGNALS, kill_with_parent

FORKS = sys.platform == "linux"
"""Whether workers are forked."""
WORKERS = multiprocessing.get_context("forkserver")
"""The context that workers are started in."""
MODULES = "LITMETER_FORKSERVER_MODULES"
"""Environment variable with the names of the modules that ``forkserver_preload`` imports."""


def start_forkserver(modules: Sequence[str]) -> None:
    """Start it; it imports ``modules``, which workers need, while this process goes on.

    Workers inherit from it that SIGTERM and SIGINT are blocked, as only the main process decides what to
    do. The resource tracker would unblock them again, so it starts before.
    """
    WORKERS.set_forkserver_preload(["litmeter.direct.forkserver_preload"])
    os.environ[MODULES] = " ".join(modules)
    ensure_resource_tracker()
    signal.pthread_sigmask(signal.SIG_BLOCK, TERMINATION_SIGNALS)
    ensure_running()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, TERMINATION_SIGNALS)


def become_litserve_worker() -> None:
    """Called in a worker of LitServe's: it ends with the forkserver, and by SIGTERM, as LitServe has it."""
    kill_with_parent(os.getppid())
    signal.pthread_sigmask(signal.SIG_UNBLOCK, TERMINATION_SIGNALS)
