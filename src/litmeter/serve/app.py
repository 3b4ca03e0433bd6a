"""Builds the server of the exported model, with LitServe's transport or the direct one.

LitServe's defaults are overridden: one HTTP process for any number of workers, one device, and no generated
client.py in the working directory.
"""

from __future__ import annotations

import multiprocessing
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from multiprocessing.context import BaseContext
from types import SimpleNamespace
from typing import Any

import litserve
import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST

from litmeter.model.card import read_card
from litmeter.params import ServeSettings
from litmeter.paths import ModelFolders
from litmeter.serve.api import ClassifierAPI
from litmeter.serve.classifier import Classifier, PredictRequest
from litmeter.serve.direct.channel import Channel, is_supported
from litmeter.serve.direct.dispatcher import Dispatcher
from litmeter.serve.direct.protocol import LimitedProtocol
from litmeter.serve.direct.route import Admission, DirectRoute
from litmeter.serve.direct.supervisor import Supervisor
from litmeter.serve.errors import invalid_body_reply
from litmeter.serve.forkserver import FORKS, WORKERS
from litmeter.serve.metrics import IN_FLIGHT, PROCESS, RequestTimer, exposition
from litmeter.serve.middleware import ApiKey, ImageBodies, response_of
from litmeter.serve.pages import extend_openapi, serve_docs, serve_page

MAX_BODY_BYTES = 20_000_000
"""Maximum size of a request body: an image file of 15 MB as base64."""


@dataclass(frozen=True)
class AppOptions:
    """Options of a server besides its settings.

    Attributes:
        device: cpu or cuda.
        timeout_s: how long a request may wait for a worker.
        null_model: serve the null model, which does no work, instead.
        metrics: whether metrics are collected and served at ``/metrics``.
        docs: whether ``/docs``, ``/redoc`` and ``/openapi.json`` are served.
        key: API key that requests must send, None if they need none.
    """

    device: str
    timeout_s: float
    null_model: bool = False
    metrics: bool = True
    docs: bool = True
    key: str | None = None


def build_server(folders: ModelFolders, settings: ServeSettings, options: AppOptions) -> Callable[..., Any]:
    """Build a server of the exported model; return the function that serves until SIGTERM or Ctrl-C.

    The function takes uvicorn's host, port, log_level, ssl_certfile and ssl_keyfile.

    Raises:
        ModelError: there is no exported model.
    """
    classifier = Classifier(folders, settings, null_model=options.null_model, timed=options.metrics)
    card = read_card(folders.exported)
    server = litserve.LitServer(
        ClassifierAPI(classifier),
        accelerator=options.device,
        devices=1,
        workers_per_device=settings.workers_per_device,
        timeout=options.timeout_s,
        max_payload_size=MAX_BODY_BYTES,
        disable_openapi_url=not options.docs,
        model_metadata=card.model_dump(mode="json") | settings.model_dump(),
    )
    app = server.app
    app.add_exception_handler(RequestValidationError, handle_invalid_body)
    serve_page(app)
    if options.docs:
        serve_docs(app)
    extend_openapi(app, PredictRequest.model_json_schema(), card.classes)
    if options.metrics:
        app.get("/metrics")(metrics)
    if settings.transport == "direct":
        if is_supported():
            return direct_server(classifier, app, settings, options)
        print("transport: this system has no SOCK_SEQPACKET; LitServe's own is used", file=sys.stderr)
    if FORKS:
        fork_workers()
    app.add_middleware(ImageBodies, max_bytes=MAX_BODY_BYTES)
    add_auth_and_timer(app, options)
    return partial(server.run, num_api_servers=1, generate_client_file=False)


def listen_on(listener: socket.socket) -> None:
    """Have uvicorn serve on a socket that is bound already, for which LitServe has no option.

    Uvicorn's own, ``fd``, takes the socket for a Unix one.
    """
    uvicorn.Config.bind_socket = lambda self: listener  # type: ignore[method-assign]


def fork_workers() -> None:
    """Have LitServe's workers forked by the forkserver: LitServe spawns them, and each imports torch.

    Its manager is forked by the main process on all versions of Python.
    """

    def context(method: str) -> BaseContext:
        return WORKERS if method == "spawn" else multiprocessing.get_context(method)

    own = {"get_context": context, "Manager": multiprocessing.get_context("fork").Manager}
    litserve.server.mp = SimpleNamespace(**vars(multiprocessing) | own)


def direct_server(
    classifier: Classifier, app: FastAPI, settings: ServeSettings, options: AppOptions
) -> Callable[..., Any]:
    """Put ``app`` behind the direct transport; return the function that serves."""
    workers = settings.workers_per_device
    channel = Channel(settings.max_queue, workers)
    queue_bytes = settings.max_queue_mib * 2**20
    dispatcher = Dispatcher(channel, options.timeout_s, workers, settings.worker_timeout_s, queue_bytes)
    admission = Admission(dispatcher, MAX_BODY_BYTES, options.key, timed=options.metrics)
    add_auth_and_timer(app, options)
    supervisor = Supervisor(
        classifier,
        channel,
        devices=["cuda:0" if options.device == "cuda" else "cpu"] * workers,
        app=DirectRoute(app, admission, settings.drain_s),
        protocol=partial(LimitedProtocol, admission=admission),
        dispatcher=dispatcher,
        drain_s=settings.drain_s,
    )
    return supervisor.run


def add_auth_and_timer(app: FastAPI, options: AppOptions) -> None:
    """Add the outermost middleware: the timer also counts requests that are refused for their key."""
    if options.key:
        app.add_middleware(ApiKey, key=options.key)
    if options.metrics:
        app.add_middleware(RequestTimer)


async def metrics() -> Response:
    """The metrics in Prometheus' text format."""
    PROCESS.labels("http").set(1)
    IN_FLIGHT.set(RequestTimer.in_flight)
    return Response(exposition(), media_type=CONTENT_TYPE_LATEST)


async def handle_invalid_body(request: Request, error: Exception) -> Response:
    """Answer an invalid body with one reason; FastAPI's own answer would repeat the body to the client."""
    assert isinstance(error, RequestValidationError)
    return response_of(invalid_body_reply(error.errors()[0], parents=1))
