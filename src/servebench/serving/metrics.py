"""Where the server's time goes, as Prometheus metrics that its HTTP process and workers share.

The processes write into files of one folder, named by PROMETHEUS_MULTIPROC_DIR before this module is
imported: whoever starts the server sees to that. ``GET /metrics`` adds them up.
"""

from __future__ import annotations

import functools
import os
from time import perf_counter

from prometheus_client import CollectorRegistry, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from starlette.types import ASGIApp, Message, Receive, Scope, Send

STAGES = ("queue", "decode", "preprocess", "batch_wait", "model", "encode")
"""What a request goes through, in this order, from the moment the HTTP process has checked its body:
waiting for a worker; base64 and image file -> pixels; pixels -> tensor; waiting for the rest of its
batch; the model's run on the batch; the answer. What is left of the request's whole time is
transport: HTTP, JSON, and the way back from the worker."""

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

STAGE_SECONDS = Histogram(
    "servebench_stage_seconds", "Time a request spends in a stage", ["stage"], buckets=SECONDS
)
REQUEST_SECONDS = Histogram(
    "servebench_request_seconds",
    "From the arrival of a request's head to the end of its answer",
    ["code"],
    buckets=SECONDS,
)
BATCH_SIZE = Histogram("servebench_batch_size", "Requests in a batch", buckets=tuple(2**k for k in range(13)))
IN_FLIGHT = Gauge(
    "servebench_requests_in_flight", "Requests that have come and not been answered", multiprocess_mode="max"
)
PROCESS = Gauge("servebench_process", "1 for each process of a role", ["role"], multiprocess_mode="liveall")

_by_code = functools.cache(REQUEST_SECONDS.labels)
_by_stage = {stage: STAGE_SECONDS.labels(stage) for stage in STAGES}


def observe_stage(stage: str, seconds: float) -> None:
    """Count ``seconds`` of one request towards ``stage``."""
    _by_stage[stage].observe(seconds)


def forget_process(process: int | None) -> None:
    """Leave a process that has died out of those that live; what it has counted stays."""
    if process is not None and "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        mark_process_dead(process)  # type: ignore[no-untyped-call]


def exposition() -> bytes:
    """The metrics of all processes in Prometheus' text format."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry)


class RequestTimer:
    """Times every ``/predict`` in the HTTP process, of which there is one; middleware for those in ASGI.

    Attributes:
        in_flight: how many requests have come and not been answered. The gauge is set when somebody
            looks, as that costs as much as all that is done here for a request.
    """

    in_flight = 0

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http" or scope["path"] != "/predict":
            await self.app(scope, receive, send)
            return
        began, code = perf_counter(), 0
        self.begin()

        async def note_status(message: Message) -> None:
            nonlocal code
            if message["type"] == "http.response.start":
                code = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, note_status)
        finally:
            self.end(code, began)

    @staticmethod
    def begin() -> None:
        """A request has come."""
        RequestTimer.in_flight += 1

    @staticmethod
    def end(code: int, began: float) -> None:
        """Its answer, with the status ``code``, has gone."""
        RequestTimer.in_flight -= 1
        _by_code(code).observe(perf_counter() - began)
