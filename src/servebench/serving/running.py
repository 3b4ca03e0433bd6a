"""The server as a context manager, with three ways in: ready, died, deadline."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import requests

from servebench.card import read_card
from servebench.errors import ServerError
from servebench.leftovers import scratch
from servebench.params import ServeSettings
from servebench.processes import log_tail, process_group
from servebench.serving.environment import worker_environment
from servebench.serving.exposure import Exposure
from servebench.serving.key import KEY_VARIABLE

READY_S = 180.0
"""How long the workers may take to load the model."""
STOP_S = 15.0
"""How long a server may take to end, once what it had accepted is finished or its time is up."""


@dataclass(frozen=True)
class RunningServer:
    """A server that answered /health with 200."""

    url: str
    process: subprocess.Popen[bytes]
    ready_s: float
    log: Path

    @property
    def pid(self) -> int:
        """Of the server's main process, the root of its tree."""
        return self.process.pid

    def check(self) -> None:
        """Raise ServerError, with the end of its log, if the server has died."""
        status = self.process.poll()
        if status is not None:
            raise ServerError(f"the server died (exit status {status}){log_tail(self.log)}")


@contextmanager
def running_server(
    folder: Path,
    settings: ServeSettings,
    device: str,
    timeout_s: float,
    port: int | None = None,
    ready_s: float = READY_S,
    *,
    null: bool = False,
    timed: bool = True,
) -> Iterator[RunningServer]:
    """Serve the model in ``folder`` on 127.0.0.1 until the block is left.

    Args:
        timeout_s: how long a request may wait in the server's queue.
        port: a free one where none is given.
        ready_s: how long the workers may take to load the model.
        null: serve a model that does nothing.
        timed: with the metrics of each stage.

    Raises:
        ServerError: the port is taken, the server died, or its workers were not ready in time.
    """
    exposure = Exposure(free_port() if port is None else port, metrics=timed)
    check_free(exposure)
    command = [*server_command(folder, settings, device, timeout_s, exposure), *(["--null"] if null else [])]
    with _scratch(settings) as (environment, log), log.open("wb") as output:
        environment.pop(KEY_VARIABLE, None)  # whoever loads this server has no key
        started = time.perf_counter()
        # Nothing that it still does is wanted: no time to stop by itself.
        with process_group(command, stdout=output, stderr=output, env=environment, stop_s=0.0) as process:
            server = RunningServer(exposure.url, process, 0.0, log)
            _wait_until_ready(server, started + ready_s, ready_s)
            yield replace(server, ready_s=time.perf_counter() - started)


@contextmanager
def _scratch(settings: ServeSettings) -> Iterator[tuple[dict[str, str], Path]]:
    """The environment of a server whose processes share their metrics, and where its log goes."""
    with scratch() as folder:
        metrics = folder / "metrics"
        metrics.mkdir()
        own = {"PROMETHEUS_MULTIPROC_DIR": str(metrics), "TMPDIR": str(folder)}
        yield worker_environment(settings) | own, folder / "log"


def serve_in_foreground(
    folder: Path, settings: ServeSettings, device: str, timeout_s: float, exposure: Exposure
) -> int:
    """Serve with the log on the terminal, until interrupted; the exit status.

    SIGTERM (where it raises SystemExit) and Ctrl-C let the server finish what it has accepted; once more,
    and it is killed. The status is 0 if it stopped because it was told to, and had finished.

    Raises:
        UsageError: strangers could reach the server without a key, or TLS would not work.
        ServerError: the port is taken, or the server was killed.
    """
    exposure.check()
    check_free(exposure)
    read_card(folder)
    print(
        f"loading the model; then {exposure.url}/predict answers, and / is a page to try it (Ctrl-C ends it)",
        flush=True,
    )
    command = server_command(folder, settings, device, timeout_s, exposure)
    with (
        _scratch(settings) as (environment, _),
        process_group(command, env=environment, stop_s=0.0) as process,
    ):
        try:
            status = process.wait()
        except (KeyboardInterrupt, SystemExit):
            process.terminate()
            try:
                status = process.wait(settings.drain_s + STOP_S)
                return 0 if status == -signal.SIGTERM else status  # it did not even handle signals yet
            except subprocess.TimeoutExpired:
                raise ServerError("the server did not stop in time, and was killed") from None
    if status < 0:
        raise ServerError(f"the server's main process was killed ({signal.Signals(-status).name})")
    return status


def server_command(
    folder: Path, settings: ServeSettings, device: str, timeout_s: float, exposure: Exposure
) -> list[str]:
    """The command that serves in the foreground."""
    return [
        *(sys.executable, "-m", "servebench.serving"),
        *("--folder", str(folder)),
        *("--settings", settings.model_dump_json()),
        *("--device", device),
        *("--timeout-s", str(timeout_s)),
        *exposure.arguments(),
    ]


def _wait_until_ready(server: RunningServer, deadline: float, ready_s: float) -> None:
    while time.perf_counter() < deadline:
        server.check()
        # A refused connection is not an error yet: it does not listen before a worker is ready.
        with suppress(requests.RequestException):
            if requests.get(f"{server.url}/health", timeout=5).status_code == 200:
                return
        time.sleep(0.05)
    raise ServerError(f"the server was not ready within {ready_s:.0f} s{log_tail(server.log)}")


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def check_free(exposure: Exposure) -> None:
    """Raise ServerError if somebody listens there already."""
    with socket.socket(socket.AF_INET6 if ":" in exposure.host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((exposure.host, exposure.port))
        except OSError as error:
            where = f"port {exposure.port} of {exposure.host}"
            raise ServerError(f"{where} is not free ({error.strerror})") from error
