"""Builds and runs the server of the exported model, with LitServe's transport or the direct one.

LitServe's defaults are overridden: one HTTP process for any number of workers, one device, and no generated
client.py in the working directory.
"""

from __future__ import annotations

import multiprocessing
import socket
from types import SimpleNamespace

import litserve
from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response

from litmeter.model.card import read_card
from litmeter.params import ServeSettings
from litmeter.paths import ModelFolders
from litmeter.serve.api import ClassifierAPI
from litmeter.serve.binding import Binding
from litmeter.serve.classifier import Classifier, PredictRequest
from litmeter.serve.direct.channel import Channel
from litmeter.serve.direct.dispatcher import Dispatcher
from litmeter.serve.direct.http import DirectRoute
from litmeter.serve.direct.supervisor import Supervisor
from litmeter.serve.errors import invalid_body_reply
from litmeter.serve.forkserver import FORKS, WORKERS
from litmeter.serve.lit_api import bind, metrics
from litmeter.serve.metrics import RequestTimer
from litmeter.serve.middleware import ApiKey, ImageBodies, response_of
from litmeter.serve.pages import extend_openapi, serve_pages

MAX_BODY_BYTES = 20_000_000
"""Maximum size of a request body: an image file of 15 MB as base64."""


def serve(
    folders: ModelFolders,
    settings: ServeSettings,
    binding: Binding,
    listener: socket.socket,
    *,
    direct: bool,
    device: str,
    timeout_s: float,
    null_model: bool,
    key: str | None,
) -> None:
    """Serve the exported model until SIGTERM or Ctrl-C.

    Args:
        listener: is bound to the address of ``binding``.
        direct: whether the transport is the direct one.
        device: cpu or cuda.
        timeout_s: how long a request may wait for a worker.
        null_model: serve the null model, which does no work, instead.
        key: API key that requests must send, None if they need none.

    Raises:
        ModelError: there is no exported model.
    """
    classifier = Classifier(folders, settings, null_model=null_model, timed=binding.metrics)
    card = read_card(folders.exported)
    server = litserve.LitServer(
        ClassifierAPI(classifier),
        accelerator=device,
        devices=1,
        workers_per_device=settings.workers_per_device,
        timeout=timeout_s,
        max_payload_size=MAX_BODY_BYTES,
        disable_openapi_url=not binding.docs,
        model_metadata=card.model_dump(mode="json", exclude_defaults=True) | settings.model_dump(),
    )
    app = server.app
    app.add_exception_handler(RequestValidationError, handle_invalid_body)
    serve_pages(app, docs=binding.docs)
    extend_openapi(app, PredictRequest.model_json_schema(), card.classes)
    if binding.metrics:
        app.get("/metrics")(metrics)
    if not direct:
        app.add_middleware(ImageBodies, max_bytes=MAX_BODY_BYTES)
    if key:
        app.add_middleware(ApiKey, key=key)
    if binding.metrics:  # the outermost: it also counts requests that are refused for their key
        app.add_middleware(RequestTimer)

    options = bind(binding, listener)
    if direct:
        workers = settings.workers_per_device
        channel = Channel(settings.max_queue, workers)
        queue_bytes = settings.max_queue_mib * 2**20
        dispatcher = Dispatcher(channel, timeout_s, workers, settings.worker_timeout_s, queue_bytes)
        route = DirectRoute(app, dispatcher, MAX_BODY_BYTES, key, binding.metrics, settings.drain_s)
        Supervisor(classifier, "cuda:0" if device == "cuda" else "cpu", channel, route).run(**options)
    if FORKS:
        fork_workers()
    server.run(num_api_servers=1, generate_client_file=False, **options)


def fork_workers() -> None:
    """Have LitServe's workers forked by the forkserver: LitServe spawns them, and each imports torch.

    Its manager is forked by the main process on all versions of Python.
    """
    own = {
        "get_context": lambda method: WORKERS if method == "spawn" else multiprocessing.get_context(method),
        "Manager": multiprocessing.get_context("fork").Manager,
    }
    litserve.server.mp = SimpleNamespace(**vars(multiprocessing) | own)


async def handle_invalid_body(request: Request, error: Exception) -> Response:
    """Answer an invalid body with one reason; FastAPI's own answer would repeat the body to the client."""
    assert isinstance(error, RequestValidationError)
    return response_of(invalid_body_reply(error.errors()[0], parents=1))
