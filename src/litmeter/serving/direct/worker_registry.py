"""Registry of the live workers in the HTTP process, and the answer to ``/health``."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
from collections.abc import Callable
from contextlib import suppress

from litmeter.serving.errors import Reply
from litmeter.serving.metrics import KILLED_WORKERS

logger = logging.getLogger(__name__)


class WorkerRegistry:
    """The workers that have registered and are alive.

    Args:
        expected: number of workers.
        on_exit: called with the process id of a worker that has exited.
    """

    def __init__(self, expected: int, on_exit: Callable[[int], None]) -> None:
        self._expected = expected
        self._on_exit = on_exit
        self._live: set[int] = set()
        self._started = False

    def register_worker(self, worker: int) -> None:
        """Add the worker with process id ``worker``, and watch its pidfd, which is readable when it exits."""
        try:
            pidfd = os.pidfd_open(worker)
        except ProcessLookupError:
            self._on_exit(worker)
            return
        self._live.add(worker)
        self._started = self._started or len(self._live) == self._expected
        asyncio.get_running_loop().add_reader(pidfd, self._on_worker_exit, worker, pidfd)

    def kill_hung(self, worker: int, timeout_s: float) -> None:
        """Kill a worker that has had a batch for longer than ``timeout_s``, once; others start a new one."""
        if worker in self._live:
            self._live.discard(worker)
            logger.error("worker %d had a batch for over %g s: it hangs, and is killed", worker, timeout_s)
            KILLED_WORKERS.inc()
            with suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)

    def _on_worker_exit(self, worker: int, pidfd: int) -> None:
        asyncio.get_running_loop().remove_reader(pidfd)
        os.close(pidfd)
        self._live.discard(worker)
        self._on_exit(worker)

    def health(self, stopping: bool) -> Reply:
        """The answer to ``/health``: 200 while requests are answered, otherwise 503.

        A starting server is not ready before all of its workers are; later, one worker is enough.

        Args:
            stopping: whether the server drains.
        """
        live = len(self._live)
        if stopping:
            state = "stopping"
        elif not self._started:
            state = "starting"
        elif live == 0:
            state = "down"
        else:
            state = "ok" if live == self._expected else "degraded"
        body = {"status": state, "workers": live, "expected": self._expected}
        return Reply(200 if state in ("ok", "degraded") else 503, json.dumps(body).encode())
