"""The processes of a running server, and what the tests do to them."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import psutil
import requests

from servebench.benchmark.server_metrics import read_scrape
from servebench.serving.launcher import RunningServer


def tree(server: RunningServer) -> list[psutil.Process]:
    """The main process and all that it started."""
    main = psutil.Process(server.pid)
    return [main, *main.children(recursive=True)]


def by_role(url: str, role: str) -> list[psutil.Process]:
    """Those that have a role in the server's metrics: ``http``, ``worker``."""
    roles = read_scrape(requests.get(f"{url}/metrics", timeout=10).text).roles
    return [psutil.Process(pid) for pid, name in roles.items() if name == role]


@contextmanager
def stopped(processes: Sequence[psutil.Process]) -> Iterator[None]:
    """Processes that stand still, so that what waits for them waits for sure."""
    for process in processes:
        process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            if process.is_running():
                process.send_signal(signal.SIGCONT)
