"""A peer as a context manager."""

from __future__ import annotations

import io
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import psutil
import requests
from PIL import Image

from litmeter.errors import ServerError
from litmeter.inference.environment import worker_environment
from litmeter.params import ServeSettings
from litmeter.paths import ModelFolders
from litmeter.serving.binding import Binding
from litmeter.serving.launcher import READY_S, RunningServer, bound_socket, free_port
from litmeter.system.processes import GONE_S, log_tail, process_group
from studies.peers.photos import VARIABLE, Options

STOP_S = 15.0
IMAGE_TYPE = "image/jpeg"


@contextmanager
def running_peer(
    name: str, folders: ModelFolders, settings: ServeSettings, port: int | None = None
) -> Iterator[RunningServer]:
    """Serve the model in ``folders`` by the peer ``name`` on 127.0.0.1 until the block is left.

    Raises:
        ServerError: the port is taken, the peer died, or it was not ready in time.
    """
    port = free_port() if port is None else port
    bound_socket(Binding(port)).close()
    with tempfile.TemporaryDirectory(prefix="peer-", ignore_cleanup_errors=True) as scratch:
        absolute = ModelFolders(folders.exported.absolute(), folders.compiled.absolute())
        options = Options(folders=absolute, settings=settings, port=port, scratch=Path(scratch))
        marker = options.model_dump_json()
        log = Path(scratch) / "log"
        started = time.perf_counter()
        try:
            with (
                log.open("wb") as output,
                process_group(
                    [sys.executable, "-m", f"studies.peers.{name}_server"],
                    stdout=output,
                    stderr=output,
                    env=environment(options) | {VARIABLE: marker},
                    stop_s=STOP_S,
                ) as process,
            ):
                server = RunningServer(f"http://127.0.0.1:{port}", process, 0.0, log)
                _wait_until_ready(server, options, started + READY_S)
                yield replace(server, ready_s=time.perf_counter() - started)
        finally:
            _end_all(marker)


def environment(options: Options) -> dict[str, str]:
    """What our own workers have, and all of the frameworks' files in the scratch folder."""
    found = worker_environment(options.settings)
    if options.settings.threads_per_worker is not None:  # for threads that others than torch start
        found["OMP_NUM_THREADS"] = str(options.settings.threads_per_worker)
    scratch = str(options.scratch)
    return found | {
        "HOME": scratch,
        "TMPDIR": scratch,
        "BENTOML_DO_NOT_TRACK": "True",
        "RAY_TMPDIR": scratch,
        "RAY_USAGE_STATS_ENABLED": "0",
        # Ray Serve's fast way: HAProxy in front, and from there straight to the replicas.
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": f"{scratch}/haproxy.cfg",
        "RAY_SERVE_HAPROXY_SOCKET_PATH": f"{scratch}/admin.sock",
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": f"{scratch}/metrics.sock",
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": scratch,
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": f"{scratch}/server-state",
    }


def _wait_until_ready(server: RunningServer, options: Options, deadline: float) -> None:
    """Until every worker has the model, and a request has been answered."""
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64)).save(buffer, "JPEG")
    while time.perf_counter() < deadline:
        server.check()
        loaded = len(list(options.scratch.glob("*.ready")))
        if loaded >= options.settings.workers_per_device:
            with suppress(requests.RequestException):
                answer = requests.post(
                    f"{server.url}/predict",
                    data=buffer.getvalue(),
                    headers={"Content-Type": IMAGE_TYPE},
                    timeout=5,
                )
                if answer.status_code == 200:
                    return
        time.sleep(0.1)
    raise ServerError(f"the peer was not ready within {READY_S:.0f} s{log_tail(server.log)}")


def _end_all(marker: str) -> None:
    """Kill what has left the peer's process group, as Ray's daemons do: all that have its options."""
    left = list(_processes(marker))
    for process in left:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, timeout=GONE_S)


def _processes(marker: str) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get(VARIABLE) == marker:
                yield process
