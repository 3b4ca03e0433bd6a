"""Build and run the server of the exported model, with LitServe's transport or the direct one."""

from __future__ import annotations

from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response

from litmeter.classifier.model.card import read_card
from litmeter.classifier.server.api import ClassifierAPI, ImageBodies
from litmeter.classifier.server.pages import extend_openapi, serve_page
from litmeter.classifier.server.responder import (
    MAX_IMAGE_BYTES,
    MAX_JSON_BYTES,
    ClassifierResponder,
    PredictRequest,
    max_body_bytes,
)
from litmeter.classifier.server.settings import ServerSettings
from litmeter.direct.binding import Binding
from litmeter.direct.forkserver import FORKS, WORKERS
from litmeter.direct.litserve_internals import Server, fork_workers
from litmeter.direct.messages import invalid_body_reply
from litmeter.direct.middleware import response_of
from litmeter.direct.run import run_server
from litmeter.paths import ModelFolders


def serve(
    folders: ModelFolders,
    settings: ServerSettings,
    *,
    binding: Binding,
    device: str,
    timeout_s: float,
    null_model: bool,
    **options: Any,
) -> None:
    """Serve the exported model until SIGTERM or Ctrl-C; ``run_server`` has the other options.

    ``null_model`` serves a model that does no work instead. Raise ModelError without an exported model.
    """
    classifier = ClassifierResponder(folders, settings, null_model=null_model)
    card = read_card(folders.exported)
    server = Server(
        ClassifierAPI(classifier),
        accelerator=device,
        devices=1,
        workers_per_device=settings.workers,
        timeout=timeout_s,
        max_payload_size=MAX_JSON_BYTES,
        model_metadata={
            **card.model_dump(mode="json", exclude_defaults=True),
            **settings.model_dump(),
            "max_image_bytes": MAX_IMAGE_BYTES,
        },
    )
    server.app.add_exception_handler(RequestValidationError, handle_invalid_body)
    serve_page(server.app)
    extend_openapi(server.app, PredictRequest.model_json_schema(), card.classes)
    if settings.transport == "litserve":
        server.app.add_middleware(ImageBodies)
        if FORKS:
            fork_workers(WORKERS)
    options["max_bytes"] = max_body_bytes
    run_server(server, classifier, settings, device, timeout_s, binding=binding, **options)


async def handle_invalid_body(request: Request, error: Exception) -> Response:
    """Answer an invalid body with one reason; FastAPI's answer would repeat the body to the client."""
    assert isinstance(error, RequestValidationError)
    return response_of(invalid_body_reply(error.errors()[0], parents=1))
