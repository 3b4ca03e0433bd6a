"""Limits besides the model: the load generator's own rate, and a server with a null model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from litmeter.errors import LoadError
from litmeter.load import LoadGenerator, LoadPlan, generate
from litmeter.load.stub import running_stub
from litmeter.measure.levels import level_row
from litmeter.measure.telemetry import Telemetry, Usage
from litmeter.params import LoadSettings
from litmeter.serve.client import CONTENT_TYPES
from litmeter.serve.launcher import RunningServer
from litmeter.stats.rates import Throughput
from litmeter.stats.records import WINDOWS

MAX_S = 1.0
"""Of three windows: enough for rates of hundreds of requests per second."""


@dataclass(frozen=True)
class NullServer:
    """Measurement of the server in one configuration with a null model and the same request bodies.

    Attributes:
        cpu_ms: CPU time of the server's processes per request.
        client_cpu_ms: CPU time of the load generator per request.
    """

    rate: Throughput
    cpu_ms: float | None
    client_cpu_ms: float | None


def client_limit_rps(load: LoadSettings, bodies: Sequence[bytes]) -> float:
    """Requests per second of the load generator against a stub server that answers at once.

    Raises:
        LoadError: the stub did not start, or did not answer every request.
    """
    with running_stub(service_s=0.0) as stub:
        [record] = generate(stub.url, bodies, CONTENT_TYPES[load.request_body], [_plan(load)])
    row = level_row(record, Usage())
    if row.failed or row.timed_out:
        raise LoadError(f"the stub server did not answer every request: {row.invalid_reason}")
    return row.throughput_rps


def measure_null_server(server: RunningServer, generator: LoadGenerator, load: LoadSettings) -> NullServer:
    """Measure a server with a null model.

    Raises:
        LoadError: the load generator failed, or requests did; ServerError: the server died.
    """
    with Telemetry(server.pid, interval_s=0.1) as telemetry:
        telemetry.follow_client(generator.pid)
        record = generator.run(f"{server.url}/predict", _plan(load))
        row = level_row(record, telemetry.usage(*record.window))
    if row.failed or row.timed_out:
        server.check()
        raise LoadError(
            f"the server with a null model did not answer every request: {row.invalid_reason}; with fewer "
            "places than users (max_queue) it cannot"
        )
    rps, cores = row.throughput_rps, row.server_cores
    return NullServer(
        Throughput(rps, row.low_rps, row.high_rps),
        cpu_ms=1000 * cores / rps if cores is not None and rps else None,
        client_cpu_ms=row.client_cpu_ms,
    )


def _plan(load: LoadSettings) -> LoadPlan:
    seconds = min(load.min_s, MAX_S)
    return LoadPlan(
        users=max(load.users),
        requests=1,
        warmup_s=load.warmup_s,
        min_s=seconds,
        max_s=seconds,
        max_windows=WINDOWS,
        timeout_s=load.timeout_s,
        seed=load.seed,
    )
