"""A LitAPI of the user's own: imported, built into LitServe's server, its stages timed.

Processes that serve one import nothing of the classifier, as they shall cost what the user's own server does.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import socket
import time
import warnings
from collections.abc import Callable
from typing import Any

import litserve
import uvicorn
from fastapi.responses import Response
from litserve.callbacks import Callback
from litserve.loops.simple_loops import BatchedLoop, SingleLoop
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from litmeter.params import ServeSettings
from litmeter.serve.binding import Binding
from litmeter.serve.metrics import BATCH_SIZE, IN_FLIGHT, PROCESS, SECONDS_OF, RequestTimer


def load_class(name: str) -> type[litserve.LitAPI]:
    """The class ``module:Class``, imported from the working directory; raise TypeError if it is no LitAPI."""
    module, _, attribute = name.partition(":")
    found = getattr(importlib.import_module(module), attribute)
    if not (isinstance(found, type) and issubclass(found, litserve.LitAPI)):
        raise TypeError(f"{name} is no subclass of litserve.LitAPI")
    return found


def make_api(settings: ServeSettings, kind: type[litserve.LitAPI]) -> litserve.LitAPI:
    """An instance with the settings, whether or not its constructor takes them."""
    with warnings.catch_warnings():  # LitServe's, that batch is defined and max_batch_size not yet set
        warnings.simplefilter("ignore")
        api = kind(**settings.api_kwargs)
    if not hasattr(api, "_loop"):
        raise TypeError("__init__ does not call super().__init__()")
    api.max_batch_size = settings.max_batch_size
    api.batch_timeout = settings.batch_timeout_s
    api.api_path = settings.path
    if not unavailable_in_process(api):
        api.loop = TimedSingleLoop() if api.max_batch_size == 1 else TimedBatchedLoop()
    return api


def unavailable_in_process(api: litserve.LitAPI) -> str:
    """Why it cannot be run without LitServe's loop, which is then not ours; empty where it can."""
    reasons = {
        "stream": api.stream,
        "spec": api.spec is not None,
        "mcp": api.mcp is not None,
        "enable_async": api.enable_async,
        "a loop of its own": not (api._loop == "auto" or isinstance(api._loop, _TimedLoop)),
    }
    given = ", ".join(name for name, given in reasons.items() if given)
    return given and f"a LitAPI with {given} is not run in-process"


class NullAPI(litserve.LitAPI):
    """Answers without doing anything: a request costs what LitServe's transport costs."""

    def decode_request(self, request):  # type: ignore[no-untyped-def]  # annotated by null_api
        """Nothing is read."""

    def predict(self, x: Any) -> Any:
        """A small constant, for each item of a batch."""
        return [0] * len(x) if self.max_batch_size > 1 else 0


def null_api(settings: ServeSettings, kind: type[litserve.LitAPI]) -> litserve.LitAPI:
    """The null API that takes the same requests as the class ``kind``."""
    request = inspect.signature(kind.decode_request).parameters["request"].annotation
    if request is not inspect.Parameter.empty:
        NullAPI.decode_request.__annotations__["request"] = request  # by which LitServe reads requests
    return make_api(settings.model_copy(update={"api_kwargs": {}}), NullAPI)


def lit_server(
    api: litserve.LitAPI, settings: ServeSettings, device: str, timeout_s: float
) -> litserve.LitServer:
    """LitServe's server of one API on one device; raise what LitServe raises for an API that it refuses."""
    if "request" not in inspect.signature(api.decode_request).parameters:
        raise TypeError("decode_request's parameter must be named request")
    return litserve.LitServer(
        api,
        accelerator=device,
        devices=1,
        workers_per_device=settings.workers_per_device,
        timeout=timeout_s,
        callbacks=[] if isinstance(api.loop, _TimedLoop) else [WorkerRole()],
    )


def serve_api(
    settings: ServeSettings,
    binding: Binding,
    listener: socket.socket,
    *,
    device: str,
    timeout_s: float,
    null_model: bool,
) -> None:
    """Serve ``settings.api``, or its null API, until SIGTERM or Ctrl-C; ``app.serve`` has the arguments."""
    kind = load_class(str(settings.api))
    api = (null_api if null_model else make_api)(settings, kind)
    server = lit_server(api, settings, device, timeout_s)
    if binding.metrics:
        server.app.get("/metrics")(metrics)
        server.app.add_middleware(RequestTimer, path=settings.path)
    server.run(num_api_servers=1, generate_client_file=False, **bind(binding, listener))


def bind(binding: Binding, listener: socket.socket) -> dict[str, Any]:
    """Have uvicorn listen on a socket that is bound; return the other options of its server.

    LitServe has no option for such a socket; uvicorn's own, fd, takes it for a Unix one.
    """
    uvicorn.Config.bind_socket = lambda self: listener  # type: ignore[method-assign]
    return {
        "host": binding.host,
        "port": binding.port,
        "ssl_certfile": binding.certificate,
        "ssl_keyfile": binding.certificate_key,
        "log_level": "warning",
    }


async def metrics() -> Response:
    """The metrics in Prometheus' text format."""
    PROCESS.labels("http").set(1)
    IN_FLIGHT.set(RequestTimer.in_flight)
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


class WorkerRole(Callback):
    """Says of a worker whose loop is not ours that it is one."""

    def on_after_setup(self, lit_api: litserve.LitAPI) -> None:
        """Called by LitServe in the worker."""
        PROCESS.labels("worker").set(1)


class _TimedLoop:
    """Has a loop of LitServe's run a timed API on a timed queue."""

    def __call__(
        self, lit_api: litserve.LitAPI, device: str, worker_id: int, request_queue: Any, *rest: Any
    ) -> None:
        PROCESS.labels("worker").set(1)
        timed = TimedQueue(request_queue)
        timed.watch(lit_api)
        super().__call__(lit_api, device, worker_id, timed, *rest)  # type: ignore[misc]


class TimedSingleLoop(_TimedLoop, SingleLoop):
    """LitServe's loop for single items, timed."""


class TimedBatchedLoop(_TimedLoop, BatchedLoop):
    """LitServe's loop for batches, timed."""


class TimedQueue:
    """A worker's request queue, which times the stages of its requests, on the monotonic clock.

    ``batch_wait`` is the time between a request's arrival in the worker and ``predict`` in which it is not
    decoded itself; ``encode`` ends with its own answer and includes those before it in the batch.
    """

    def __init__(self, queue: Any) -> None:
        self._queue = queue
        self._taken: list[float] = []  # when each request of the batch was taken off the queue
        self._decode_s: list[float] = []
        self._predicted = 0.0

    def get(self, *arguments: Any, **options: Any) -> Any:
        """The queue's own, as is ``get_nowait``."""
        return self._take(self._queue.get(*arguments, **options))

    def get_nowait(self) -> Any:
        """See ``get``."""
        return self._take(self._queue.get_nowait())

    def _take(self, item: Any) -> Any:
        now = time.monotonic()
        if self._decode_s:  # LitServe decodes only once it has the whole batch: a new one begins
            self._taken, self._decode_s = [], []
        self._taken.append(now)
        if (sent := item[2]) is not None:  # None tells the loop to end
            SECONDS_OF["queue"].observe(now - sent)
        return item

    def watch(self, api: litserve.LitAPI) -> None:
        """Time the API's methods from now on."""
        for name in ("decode_request", "predict", "encode_response"):
            method = getattr(api, name)
            timed = functools.partial(getattr(self, f"_{name}"), method)
            setattr(api, name, functools.update_wrapper(timed, method))  # keeps its signature, for LitServe

    def _decode_request(self, method: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        begin = time.monotonic()
        try:
            return method(*arguments, **options)
        finally:
            self._decode_s.append(seconds := time.monotonic() - begin)
            SECONDS_OF["decode"].observe(seconds)

    def _predict(self, method: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        begin = time.monotonic()
        result = method(*arguments, **options)
        self._predicted = time.monotonic()
        size = len(self._decode_s)
        BATCH_SIZE.observe(size)
        for taken, decode_s in zip(self._taken[-size:], self._decode_s, strict=False):
            SECONDS_OF["batch_wait"].observe(begin - taken - decode_s)
            SECONDS_OF["model"].observe(self._predicted - begin)
        return result

    def _encode_response(self, method: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        result = method(*arguments, **options)
        SECONDS_OF["encode"].observe(time.monotonic() - self._predicted)
        return result
