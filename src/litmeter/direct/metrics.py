"""The server's Prometheus metrics, from the HTTP process and the workers.

Each process writes files in the folder PROMETHEUS_MULTIPROC_DIR, which must be set before this module is
imported. ``GET /metrics`` aggregates the files.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable
from contextlib import suppress
from time import perf_counter
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

if TYPE_CHECKING:
    from prometheus_client import Metric
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

STAGES = ("queue", "decode", "preprocess", "batch_wait", "model", "encode")
"""Stages of a request after the HTTP process has received the body: wait for a worker; base64 and image file
to pixels; pixels to tensor; wait for the rest of the batch; the model on the batch; encoding of the answer.
The rest of a request's time is transport: HTTP, JSON, and communication between the processes."""

BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

STAGE_SECONDS = Histogram(
    "litmeter_stage_seconds", "Time a request spends in a stage", ["stage"], buckets=BUCKETS_S
)
REQUEST_SECONDS = Histogram(
    "litmeter_request_seconds",
    "From the arrival of a request's head to the end of its answer",
    ["code"],
    buckets=BUCKETS_S,
)
BATCH_SIZE = Histogram("litmeter_batch_size", "Requests in a batch", buckets=tuple(2**k for k in range(13)))
IN_FLIGHT = Gauge(
    "litmeter_requests_in_flight", "Requests that have come and not been answered", multiprocess_mode="max"
)
KILLED_WORKERS = Counter(
    "litmeter_workers_killed", "Workers that had a batch for too long, and were killed and replaced"
)
PROCESS = Gauge("litmeter_process", "1 for each process of a role", ["role"], multiprocess_mode="liveall")

request_seconds = functools.cache(REQUEST_SECONDS.labels)
SECONDS_OF = {stage: STAGE_SECONDS.labels(stage) for stage in STAGES}


class WrittenFiles(MultiProcessCollector):
    """Collects the processes' files but for new, empty files, at which the library fails."""

    def collect(self) -> Iterable[Metric]:
        """The metrics of all processes together."""
        written = []
        with os.scandir(self._path) as files:
            for file in files:
                with suppress(FileNotFoundError):  # a worker has ended meanwhile
                    written += [file.path] if file.stat().st_size else []
        metrics: Iterable[Metric] = self.merge(written)  # type: ignore[no-untyped-call]
        return metrics


def exposition() -> bytes:
    """The metrics of all processes in Prometheus' text format."""
    registry = CollectorRegistry()
    WrittenFiles(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry)


class RequestTimer:
    """ASGI middleware that times all requests to ``path``.

    Attributes:
        in_flight: number of requests in flight in the HTTP process. ``GET /metrics`` copies it to the gauge:
            updating the gauge at each request would double the timer's cost.
    """

    in_flight = 0

    def __init__(self, app: ASGIApp, path: str = "/predict") -> None:
        self.app, self.path = app, path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        if scope["type"] == "lifespan":  # once, in each of LitServe's HTTP processes
            PROCESS.labels("http").set(1)
        if scope["type"] != "http" or scope["path"] != self.path:
            await self.app(scope, receive, send)
            return
        began, code = perf_counter(), 0
        RequestTimer.in_flight += 1

        async def record_status(message: Message) -> None:
            nonlocal code
            if message["type"] == "http.response.start":
                code = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, record_status)
        finally:
            RequestTimer.in_flight -= 1
            request_seconds(code).observe(perf_counter() - began)
