"""Which workers live, as the HTTP process knows it, and what ``/health`` answers."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable

from servebench.serving.errors import Reply


class WorkerRegistry:
    """The workers that have registered and not died since.

    Args:
        expected: how many there shall be.
        on_exit: called with the process id of one that died.
    """

    def __init__(self, expected: int, on_exit: Callable[[int], None]) -> None:
        self._expected = expected
        self._on_exit = on_exit
        self._living: set[int] = set()
        self._started = False

    def register_worker(self, worker: int) -> None:
        """Notice when ``worker`` dies: the descriptor of a process becomes readable at its end."""
        try:
            descriptor = os.pidfd_open(worker)
        except ProcessLookupError:
            self._on_exit(worker)
            return
        self._living.add(worker)
        self._started = self._started or len(self._living) == self._expected
        asyncio.get_running_loop().add_reader(descriptor, self._on_worker_exit, worker, descriptor)

    def _on_worker_exit(self, worker: int, descriptor: int) -> None:
        asyncio.get_running_loop().remove_reader(descriptor)
        os.close(descriptor)
        self._living.discard(worker)
        self._on_exit(worker)

    def health(self, stopping: bool) -> Reply:
        """200 while requests are answered, 503 while they had better be sent elsewhere.

        A server that starts is not ready before all of its workers are. Later one that is missing makes
        it slower, not unable.
        """
        living = len(self._living)
        if stopping:
            state = "stopping"
        elif not self._started:
            state = "starting"
        elif living == 0:
            state = "down"
        else:
            state = "ok" if living == self._expected else "degraded"
        body = {"status": state, "workers": living, "expected": self._expected}
        return 200 if state in ("ok", "degraded") else 503, json.dumps(body).encode()
