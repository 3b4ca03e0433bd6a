"""The processes of a running server, and what the tests do to them."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

import psutil
import requests

from litmeter.kinds.configuration import Configuration
from litmeter.kinds.server import LOCAL, Start, StartedServer, bound_socket, worker_words
from litmeter.measure.figures import read_scrape
from litmeter.paths import ModelFolders

MODULE = "litmeter.classifier.server"
MOST_TRIES = 5


def tree(server: StartedServer) -> list[psutil.Process]:
    """The main process and all that it started."""
    main = psutil.Process(server.pid)
    return [main, *main.children(recursive=True)]


def started_server(folders: ModelFolders, settings: Configuration, folder: Path) -> subprocess.Popen[str]:
    """A server's main process, which nobody guards, with its log in a pipe.

    Args:
        folder: of its metrics.
    """
    options = {"folders": asdict(folders), "settings": settings.model_dump()}
    (folder / "metrics").mkdir()
    with bound_socket(LOCAL) as listener:
        return subprocess.Popen(
            worker_words(MODULE, Start("cpu", 30.0), LOCAL, listener, **options),
            env=os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(folder / "metrics")},
            pass_fds=(listener.fileno(),),
            stderr=subprocess.PIPE,
            text=True,
        )


@contextmanager
def loading_server(
    folders: ModelFolders, settings: Configuration, folder: Path
) -> Iterator[tuple[subprocess.Popen[str], list[psutil.Process], list[psutil.Process]]]:
    """A server as it starts its workers, all processes that it has started, and those that are workers.

    The workers are stopped as they load. Where one was ready before, another server is started.

    Args:
        settings: with two workers or more.
        folder: of its metrics.
    """
    for number in range(MOST_TRIES):
        (own := folder / str(number)).mkdir()
        with started_server(folders, settings, own) as server:
            try:
                main, workers = psutil.Process(server.pid), []
                # All at once: one fork may be no worker, as importing runs `uname`, but never two at a time.
                while len(workers) < settings.workers_per_device:
                    assert server.poll() is None
                    time.sleep(0.01)
                    started = main.children(recursive=True)
                    forks = [child for child in started if "forkserver" in command_of(child)]
                    forkservers = {child.pid for child in forks if parent_of(child) == server.pid}
                    workers = [child for child in forks if parent_of(child) in forkservers]
                for worker in workers:
                    worker.suspend()
                time.sleep(0.5)  # in which the main process would learn that one is ready, and fork
                if command_of(main) in map(command_of, main.children()):
                    continue
                yield server, started, workers
                _, left = psutil.wait_procs(started, 60)
                assert left == []
                return
            finally:
                server.kill()
    raise AssertionError("workers were ready each time")


def command_of(process: psutil.Process) -> str:
    """Its command line; empty if it has ended."""
    with suppress(psutil.NoSuchProcess):
        return " ".join(process.cmdline())
    return ""


def parent_of(process: psutil.Process) -> int:
    """Its parent's process id; 0 if it has ended."""
    with suppress(psutil.NoSuchProcess):
        return process.ppid()
    return 0


def by_role(url: str, role: str) -> list[psutil.Process]:
    """Those that have a role in the server's metrics: ``http``, ``worker``."""
    roles = read_scrape(requests.get(f"{url}/metrics", timeout=10).text).roles
    found = []
    for pid in (pid for pid, name in roles.items() if name == role):
        with suppress(psutil.NoSuchProcess):  # its metrics outlive it for a moment
            found.append(psutil.Process(pid))
    return found


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
