"""The application around the exported model, on LitServe's own transport or on the direct one.

LitServe's own switches are pinned where its defaults would surprise: one HTTP process however many
workers, no client.py in the working directory, one device.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import litserve
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST

from servebench.inference.card import read_card
from servebench.params import ServeSettings
from servebench.paths import ModelFolders
from servebench.serving.api import ClassifierAPI, PredictRequest
from servebench.serving.auth import ApiKey
from servebench.serving.bodies import ImageBodies
from servebench.serving.direct.admission import Admission
from servebench.serving.direct.channel import Channel
from servebench.serving.direct.dispatcher import Dispatcher
from servebench.serving.direct.messages import is_supported
from servebench.serving.direct.protocol import LimitedProtocol
from servebench.serving.direct.route import DirectRoute
from servebench.serving.direct.supervisor import Supervisor
from servebench.serving.docs_page import serve_docs
from servebench.serving.errors import invalid
from servebench.serving.metrics import IN_FLIGHT, PROCESS, RequestTimer, exposition
from servebench.serving.openapi import document
from servebench.serving.page import serve_page

MAX_BODY_BYTES = 20_000_000
"""A larger request is refused: 15 MB of image, as base64."""


@dataclass(frozen=True)
class AppOptions:
    """What a server is besides its settings.

    Attributes:
        device: cpu or cuda.
        timeout_s: how long a request may wait for a worker.
        null_model: with a model that does nothing.
        metrics: with ``/metrics``.
        docs: with ``/docs``, ``/redoc`` and ``/openapi.json``.
        key: what requests must bring, if anything.
    """

    device: str
    timeout_s: float
    null_model: bool = False
    metrics: bool = True
    docs: bool = True
    key: str | None = None


def build_server(folders: ModelFolders, settings: ServeSettings, options: AppOptions) -> Callable[..., Any]:
    """A server for the exported model, configured as ``settings`` say; it serves when called.

    The call takes host, port, log_level, ssl_certfile and ssl_keyfile, and ends by SIGTERM or Ctrl-C.

    Raises:
        ModelError: there is no such model.
    """
    api = ClassifierAPI(folders, settings, null_model=options.null_model, timed=options.metrics)
    server = litserve.LitServer(
        api,
        accelerator=options.device,
        devices=1,
        workers_per_device=settings.workers_per_device,
        timeout=options.timeout_s,
        max_payload_size=MAX_BODY_BYTES,
        disable_openapi_url=not options.docs,
        model_metadata=read_card(folders.exported).model_dump(mode="json") | settings.model_dump(),
    )
    add_pages(server.app, read_card(folders.exported).classes, options)
    if settings.transport == "direct" and is_supported():
        return direct_server(api, server.app, settings, options)
    if settings.transport == "direct":
        print("transport: this system has no SOCK_SEQPACKET; LitServe's own is used", file=sys.stderr)
    server.app.add_middleware(ImageBodies, max_bytes=MAX_BODY_BYTES)
    add_key_and_timer(server.app, options)
    return partial(server.run, num_api_servers=1, generate_client_file=False)


def direct_server(
    api: ClassifierAPI, app: FastAPI, settings: ServeSettings, options: AppOptions
) -> Callable[..., Any]:
    """The same app behind the direct transport, in processes of our own."""
    workers = settings.workers_per_device
    channel = Channel(settings.max_queue, workers)
    dispatcher = Dispatcher(channel, options.timeout_s, workers)
    admission = Admission(dispatcher, MAX_BODY_BYTES, options.key, timed=options.metrics)
    add_key_and_timer(app, options)
    supervisor = Supervisor(
        api,
        channel,
        devices=["cuda:0" if options.device == "cuda" else "cpu"] * workers,
        app=DirectRoute(app, admission, settings.drain_s),
        protocol=partial(LimitedProtocol, admission=admission),
        dispatcher=dispatcher,
        drain_s=settings.drain_s,
    )
    return supervisor.run


def add_pages(app: FastAPI, classes: list[str], options: AppOptions) -> None:
    """Everything but predictions: the page, the OpenAPI document, ``/metrics``, and readable errors."""
    app.add_exception_handler(RequestValidationError, explain_invalid)
    serve_page(app)
    if options.docs:
        serve_docs(app)
    document(app, PredictRequest.model_json_schema(), classes)
    if options.metrics:
        app.get("/metrics")(metrics)


def add_key_and_timer(app: FastAPI, options: AppOptions) -> None:
    """Outermost, as they are added last: requests without the key are refused, and counted."""
    if options.key:
        app.add_middleware(ApiKey, key=options.key)
    if options.metrics:
        app.add_middleware(RequestTimer)


async def metrics() -> Response:
    """What Prometheus scrapes."""
    PROCESS.labels("http").set(1)
    IN_FLIGHT.set(RequestTimer.in_flight)
    return Response(exposition(), media_type=CONTENT_TYPE_LATEST)


async def explain_invalid(request: Request, error: Exception) -> JSONResponse:
    """One reason instead of FastAPI's list, which repeats the whole body to the sender."""
    assert isinstance(error, RequestValidationError)
    return invalid(error.errors()[0], parents=1)
