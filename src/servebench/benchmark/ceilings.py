"""What bounds a served rate besides the model: the load generator, and the server by itself."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from servebench.errors import LoadError
from servebench.load import CONTENT_TYPES, LevelPlan, generate
from servebench.measure.level import level_row
from servebench.measure.rates import Throughput
from servebench.measure.steady import WINDOWS
from servebench.measure.telemetry import Telemetry, Usage
from servebench.params import LoadSettings, ServeSettings
from servebench.paths import EXPORT_FOLDER
from servebench.processes import process_group
from servebench.serving.running import free_port, running_server

MAX_S = 1.5
"""Measured in three windows: enough for a rate of hundreds a second."""
START_S = 30.0


@dataclass(frozen=True)
class NullServer:
    """LitServe in one configuration, with a model that does nothing and the same bodies.

    Attributes:
        cpu_ms: CPU time of the server's processes per request.
        client_cpu_ms: of the load generator's.
    """

    rate: Throughput
    cpu_ms: float | None
    client_cpu_ms: float | None


def client_ceiling_rps(form: str, load: LoadSettings, bodies: Sequence[bytes]) -> float:
    """What the load generator reaches against a server that answers at once.

    Args:
        form: of the bodies, ``json`` or ``image``.

    Raises:
        LoadError: that server did not start, or did not answer every request.
    """
    port = free_port()
    with process_group([sys.executable, "-m", "servebench.load.instant", str(port)], stop_s=0.0):
        _wait_for(port)
        [level] = generate(f"http://127.0.0.1:{port}/", bodies, CONTENT_TYPES[form], [_plan(load)])
    row = level_row(level, Usage())
    if row["failed"] or row["timed_out"]:
        raise LoadError(f"the server that answers at once did not: {row['why']}")
    return row["throughput_rps"]


def null_server(serve: ServeSettings, load: LoadSettings, bodies: Sequence[bytes]) -> NullServer:
    """Load LitServe in the configuration ``serve`` with a model that does nothing.

    Raises:
        ServerError: it did not start; LoadError: the load generator failed.
    """
    with (
        running_server(EXPORT_FOLDER, serve, "cpu", load.timeout_s, null=True) as server,
        Telemetry(server.pid, interval_s=0.1) as telemetry,
    ):
        [level] = generate(
            f"{server.url}/predict",
            bodies,
            CONTENT_TYPES[serve.request_body],
            [_plan(load)],
            on_start=telemetry.follow_client,
        )
        row = level_row(level, telemetry.usage(*level.window))
    rps, cores = row["throughput_rps"], row["server_cores"]
    return NullServer(
        Throughput(rps, row["low_rps"], row["high_rps"]),
        cpu_ms=1000 * cores / rps if cores is not None and rps else None,
        client_cpu_ms=row["client_cpu_ms"],
    )


def _plan(load: LoadSettings) -> LevelPlan:
    seconds = min(load.min_s, MAX_S)
    return LevelPlan(
        users=max(load.users),
        requests=1,
        warmup_s=load.warmup_s,
        min_s=seconds,
        max_s=seconds,
        max_windows=WINDOWS,
        timeout_s=load.timeout_s,
        seed=load.seed,
    )


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise LoadError(f"the server that answers at once did not start within {START_S:.0f} s")
