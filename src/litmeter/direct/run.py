"""Runs a server with LitServe's processes or the direct transport's."""

from __future__ import annotations

import socket
from functools import partial
from typing import Any

from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST

from litmeter.direct.binding import Binding
from litmeter.direct.channel import Channel
from litmeter.direct.dispatcher import Dispatcher
from litmeter.direct.litserve_internals import Server, check_direct, listen_on
from litmeter.direct.metrics import IN_FLIGHT, PROCESS, RequestTimer, exposition
from litmeter.direct.middleware import ApiKey
from litmeter.direct.settings import WorkerSettings
from litmeter.direct.worker import Responder, run_worker

DOCS = ("/openapi.json", "/docs", "/docs/oauth2-redirect", "/redoc")
"""FastAPI's pages about the API."""


def run_server(
    server: Server,
    responder: Responder,
    settings: WorkerSettings,
    device: str,
    timeout_s: float,
    *,
    binding: Binding,
    listener: socket.socket,
    key: str | None,
    num_api_servers: int = 1,
    **route: Any,
) -> None:
    """Serve until SIGTERM or Ctrl-C.

    Args:
        server: LitServe's; in the direct transport, its app serves all but predictions.
        responder: answers requests in the direct transport.
        device: cpu or cuda.
        timeout_s: how long a request may wait for a worker.
        listener: socket bound to the address of ``binding``.
        key: the API key that requests must send, if any.
        num_api_servers: HTTP processes of LitServe's transport.
        route: other arguments of ``DirectRoute``.
    """
    app, path = server.app, server.lit_api.api_path
    if not binding.docs:
        app.router.routes = [route for route in app.router.routes if getattr(route, "path", None) not in DOCS]
    if binding.metrics:
        app.get("/metrics")(metrics)
    if key:
        app.add_middleware(ApiKey, key=key)
    listen_on(listener)
    options: dict[str, Any] = {
        "host": binding.host,
        "port": binding.port,
        "ssl_certfile": binding.certificate,
        "ssl_keyfile": binding.certificate_key,
        "log_level": "warning",
    }
    if settings.transport == "litserve":
        if binding.metrics:  # the outermost middleware also counts requests refused for their key
            app.add_middleware(RequestTimer, path=path)
        server.run(num_api_servers=num_api_servers, generate_client_file=False, **options)
        return
    check_direct()
    from litmeter.direct.http import DirectRoute
    from litmeter.direct.supervisor import Supervisor

    channel = Channel(settings.max_queue, settings.workers)
    dispatcher = Dispatcher(channel, settings, timeout_s)
    device = "cuda:0" if device == "cuda" else device  # LitServe's name
    worker = partial(run_worker, responder, settings, device, channel)
    direct_route = DirectRoute(app, dispatcher, settings, path, key, **route)
    Supervisor(worker, channel, direct_route).run(**options)


async def metrics() -> Response:
    """The metrics in Prometheus' text format."""
    PROCESS.labels("http").set(1)
    IN_FLIGHT.set(RequestTimer.in_flight)
    return Response(exposition(), media_type=CONTENT_TYPE_LATEST)
