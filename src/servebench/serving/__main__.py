"""Serve a model in the foreground: ``python -m servebench.serving`` (started by ``running_server``).

LitServe's own switches are pinned where its defaults would surprise: one HTTP process however many
workers, no client.py in the working directory, one device.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import signal
import sys
from functools import partial
from pathlib import Path
from types import FrameType

import litserve
from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST

from servebench.card import read_card
from servebench.params import ServeSettings
from servebench.serving.api import ClassifierAPI, PredictRequest
from servebench.serving.bodies import ImageBodies
from servebench.serving.direct.messages import available
from servebench.serving.direct.protocol import LimitedProtocol
from servebench.serving.direct.route import DirectRoute
from servebench.serving.direct.server import DirectServer
from servebench.serving.direct.transport import connect
from servebench.serving.document import document
from servebench.serving.key import ApiKey, api_key
from servebench.serving.metrics import PROCESS, UNDER_WAY, RequestTimer, exposition
from servebench.serving.page import serve_page
from servebench.serving.refusals import invalid

MAX_BODY_BYTES = 20_000_000
"""A larger request is refused: 15 MB of image, as base64."""


def build_server(
    folder: Path,
    settings: ServeSettings,
    device: str,
    timeout_s: float,
    *,
    null: bool,
    timed: bool,
    docs: bool,
    key: str | None,
) -> litserve.LitServer:
    """A LitServer for the model in ``folder``, configured as ``settings`` say.

    Args:
        timeout_s: how long a request may wait in the queue.
        null: with a model that does nothing.
        timed: with ``/metrics``.
        docs: with ``/docs``, ``/redoc`` and ``/openapi.json``.
        key: what requests must bring, if anything.
    """
    card = read_card(folder)
    api = ClassifierAPI(folder, settings, null=null, timed=timed)
    make, dispatcher = litserve.LitServer, None
    if settings.transport == "direct" and not available():
        print("transport: this system has no SOCK_SEQPACKET; LitServe's own is used", file=sys.stderr)
    elif settings.transport == "direct":
        dispatcher = connect(api, timeout_s)
        protocol = partial(
            LimitedProtocol, dispatcher=dispatcher, max_bytes=MAX_BODY_BYTES, key=key, timed=timed
        )
        make = partial(DirectServer, drain_s=settings.drain_s, protocol=protocol)
    server = make(
        api,
        accelerator=device,
        devices=1,
        workers_per_device=settings.workers_per_device,
        timeout=timeout_s,
        max_payload_size=MAX_BODY_BYTES,
        disable_openapi_url=not docs,
        model_metadata=card.model_dump(mode="json") | settings.model_dump(),
    )
    server.app.add_exception_handler(RequestValidationError, explain_invalid)
    serve_page(server.app)
    document(server.app, PredictRequest.model_json_schema(), card.classes)
    if dispatcher is not None:
        server.app.add_middleware(
            DirectRoute, dispatcher=dispatcher, max_bytes=MAX_BODY_BYTES, drain_s=settings.drain_s
        )
    else:
        server.app.add_middleware(ImageBodies, max_bytes=MAX_BODY_BYTES)
    if key:
        server.app.add_middleware(ApiKey, key=key)
    if timed:
        server.app.add_middleware(RequestTimer)
        server.app.get("/metrics")(metrics)
    return server


async def metrics() -> Response:
    """What Prometheus scrapes."""
    PROCESS.labels("api").set(1)
    UNDER_WAY.set(RequestTimer.under_way)
    return Response(exposition(), media_type=CONTENT_TYPE_LATEST)


async def explain_invalid(request: Request, error: RequestValidationError) -> JSONResponse:
    """One reason instead of FastAPI's list, which repeats the whole body to the sender."""
    return invalid(error.errors()[0], parents=1)


def _interrupt(signum: int, frame: FrameType | None) -> None:
    """LitServe shuts down on Ctrl-C only; SIGTERM shall do the same.

    The HTTP process is forked with this handler, and uvicorn, having stopped, raises the signal again.
    """
    if multiprocessing.parent_process() is not None:
        sys.exit(128 + signum)
    # Its monitor would report as dead the workers that it stops itself.
    logging.getLogger("litserve.server").setLevel(logging.CRITICAL)
    raise KeyboardInterrupt


def main() -> None:
    """Serve until SIGTERM or Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m servebench.serving", description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="of the exported model")
    parser.add_argument("--settings", required=True, help="a serve section, as JSON")
    parser.add_argument("--device", choices=("cpu", "cuda"), required=True)
    parser.add_argument("--timeout-s", type=float, required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--certificate", help="PEM file; with --key, for HTTPS")
    parser.add_argument("--key", help="PEM file")
    parser.add_argument("--log-level", default="warning")
    parser.add_argument("--null", action="store_true", help="a model that does nothing")
    parser.add_argument("--no-metrics", action="store_true", help="and measure none")
    parser.add_argument("--no-docs", action="store_true")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, _interrupt)
    settings = ServeSettings.model_validate_json(options.settings)
    server = build_server(
        options.folder,
        settings,
        options.device,
        options.timeout_s,
        null=options.null,
        timed=not options.no_metrics,
        docs=not options.no_docs,
        key=api_key(),
    )
    try:
        server.run(
            host=options.host,
            port=options.port,
            ssl_certfile=options.certificate,
            ssl_keyfile=options.key,
            num_api_servers=1,
            generate_client_file=False,
            log_level=options.log_level,
        )
    except KeyboardInterrupt:  # while it still starts, LitServe does not expect one
        for child in multiprocessing.active_children():
            child.kill()


if __name__ == "__main__":
    main()
