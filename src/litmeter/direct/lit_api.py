"""A user's LitAPI: imported, served by LitServe or by the direct transport, its stages timed.

The processes that serve it import nothing of the classifier: they shall cost what the user's server costs.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import logging
import os
import re
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterable
from contextlib import suppress
from inspect import isasyncgenfunction, iscoroutinefunction
from pathlib import Path
from typing import Any, TypeGuard

import litserve
from fastapi import HTTPException
from litserve.callbacks import Callback
from litserve.utils import LitAPIStatus, WorkerSetupStatus

from litmeter.direct.binding import LOG_VARIABLE, PATH_FILE
from litmeter.direct.lit_methods import LengthError, Methods, Outcome, RefusedError, Route, route_of
from litmeter.direct.messages import SETUP_FAILED, Reply, Request
from litmeter.direct.metrics import BATCH_SIZE, PROCESS, SECONDS_OF
from litmeter.direct.run import run_server
from litmeter.direct.settings import LitApiSettings
from litmeter.errors import ApiError
from litmeter.system.device import end_if_sticky

logger = logging.getLogger(__name__)


def load_class(name: str) -> type[litserve.LitAPI]:
    """Import the LitAPI ``module:Class`` from the working directory; raise ApiError for anything else."""
    place, _, attribute = name.partition(":")
    module = importlib.import_module(place)
    found = getattr(module, attribute, None)
    if is_api(found):
        return found
    file = Path(module.__file__ or place).name
    fault = f"{file} has no {attribute!r}"
    if found is not None:
        fault = f"{attribute} of {file} is no subclass of litserve.LitAPI"
    there = ", ".join(own for own, one in vars(module).items() if is_api(one) and one is not litserve.LitAPI)
    raise ApiError(f"{fault}; LitAPIs there: {there or 'none'}")


def is_api(found: object) -> TypeGuard[type[litserve.LitAPI]]:
    """Whether ``found`` is a subclass of LitAPI."""
    return isinstance(found, type) and issubclass(found, litserve.LitAPI)


def in_a_line(error: BaseException) -> str:
    """An exception's type and the first paragraph of its message, in one line."""
    text = traceback.format_exception_only(error)[-1].strip()
    return " ".join(re.split(r"\n\s*\n", text)[0].split())


def set_up(api: litserve.LitAPI, device: str) -> None:
    """Call ``setup``; if it fails, print one line that names the traceback's file, and raise SetupError.

    If several workers fail, only the first prints.
    """
    try:
        type(api).setup(api, device)
    except Exception as error:
        name = f"{type(api).__module__}:{type(api).__qualname__}"
        log = Path(os.environ[LOG_VARIABLE])
        log.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
        with suppress(FileExistsError):
            (Path(tempfile.gettempdir()) / "setup").touch(exist_ok=False)
            print(f"litmeter: {name}: setup: {in_a_line(error)}; its log: {log}", file=sys.stderr, flush=True)
        logging.getLogger("litserve").setLevel(logging.CRITICAL)  # it would log the traceback
        raise SetupError from error


class SetupError(Exception):
    """``setup`` has failed in a worker, and has been reported."""


def make_api(settings: LitApiSettings, kind: type[litserve.LitAPI]) -> litserve.LitAPI:
    """An instance with the settings, whether or not the constructor takes them."""
    with warnings.catch_warnings():  # LitServe warns of a batch method without max_batch_size
        warnings.simplefilter("ignore")
        api = kind(**settings.api_kwargs)
    if not hasattr(api, "_loop"):
        raise TypeError("__init__ does not call super().__init__()")
    api.max_batch_size = settings.max_batch_size
    api.batch_timeout = settings.batch_timeout_s
    api.api_path = settings.path
    unusual = unusual_features(api) or "authorize" * hasattr(api, "authorize")
    if settings.transport == "direct" and unusual:
        raise ApiError(f"transport: direct serves no LitAPI with {unusual}; allowed: litserve")
    return api


def unusual_features(api: litserve.LitAPI) -> str:
    """Features that only LitServe's loops and transport can run; empty without any.

    Call this before a ``LitServer`` takes the API, and replaces its loop.
    """
    features = {
        "stream": api.stream,
        "spec": api.spec is not None,
        "mcp": api.mcp is not None,
        "enable_async": api.enable_async,
        "its own loop": api._loop != "auto",
    }
    return ", ".join(name for name, has_it in features.items() if has_it)


class NullAPI(litserve.LitAPI):
    """Answers at once: a request costs what the transport costs."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        NullAPI.decode_request.__annotations__["request"] = self.request

    def decode_request(self, request):  # type: ignore[no-untyped-def]  # annotated by __setstate__
        """Read nothing."""

    def predict(self, x: Any) -> Any:
        """0 for each item."""
        return [0] * len(x) if self.max_batch_size > 1 else 0


def null_api(settings: LitApiSettings, kind: type[litserve.LitAPI]) -> litserve.LitAPI:
    """The null API that takes the same requests as the class ``kind``."""
    request = inspect.signature(kind.decode_request).parameters["request"].annotation
    api = make_api(settings.model_copy(update={"api_kwargs": {}}), NullAPI)
    api.__setstate__({"request": request})  # LitServe parses requests by this annotation
    return api


def lit_server(
    api: litserve.LitAPI, settings: LitApiSettings, device: str, timeout_s: float
) -> litserve.LitServer:
    """LitServe's server of one API on one device; raise LitServe's errors for an API that it refuses."""
    if "request" not in inspect.signature(api.decode_request).parameters:
        raise TypeError("decode_request's parameter must be named request")
    for name in ("decode_request", "predict", "encode_response"):
        is_async = any(check(getattr(api, name)) for check in (iscoroutinefunction, isasyncgenfunction))
        if is_async and not api.enable_async and api._loop == "auto":
            raise TypeError(f"{name} is async: __init__ needs super().__init__(enable_async=True)")
    unusual = unusual_features(api)
    server = litserve.LitServer(
        api,
        accelerator=device,
        devices=1,
        workers_per_device=settings.workers_per_device,
        timeout=timeout_s,
        callbacks=[times := StageTimes()],
    )
    if not unusual:
        times.replace_queue(server)
    if settings.transport == "direct" and route_of(server).dependant.query_params:
        raise ApiError("transport: direct serves no LitAPI whose request is not the body; allowed: litserve")
    return server


def serve_api(
    settings: LitApiSettings, *, device: str, timeout_s: float, null_model: bool, **options: Any
) -> None:
    """Serve ``settings.api``, or its null API, until SIGTERM or Ctrl-C; raise ApiError if that fails.

    Args:
        options: of ``run_server``.
    """
    try:
        kind = load_class(settings.api)
    except (ImportError, AttributeError, TypeError) as error:
        raise ApiError(f"api: {in_a_line(error)}") from error
    api = (null_api if null_model else make_api)(settings, kind)
    if "setup" not in vars(api):
        api.setup = functools.partial(set_up, api)
    try:
        server = lit_server(api, settings, device, timeout_s)
    except (TypeError, ValueError) as error:
        raise ApiError(f"LitServer: {in_a_line(error)}") from error
    if api.api_path != settings.path:  # LitServe takes /predict for the default, which a spec replaces
        Path(tempfile.gettempdir(), PATH_FILE).write_text(api.api_path, encoding="utf-8")
    healthy = functools.partial(is_healthy, api)
    responder = ApiResponder(api, settings)
    try:
        run_server(server, responder, settings, device, timeout_s, is_healthy=healthy, **options)
    except RuntimeError:  # from LitServe, if no worker could be set up
        if WorkerSetupStatus.ERROR not in server.workers_setup_status.values():
            raise
        for worker in server.inference_workers:  # they would fail to find LitServe's manager
            worker.kill()
        sys.exit(ApiError.exit_code)


async def is_healthy(api: litserve.LitAPI) -> bool:
    """The verdict of ``health``, asked where LitServe asks: in the HTTP process, without ``setup``."""
    try:
        verdict = api.health()
        return bool(await verdict if inspect.isawaitable(verdict) else verdict)
    except Exception:
        logger.exception("health failed")
        return False


class ApiResponder:
    """A LitAPI in a worker of the direct transport.

    As LitServe's loops, except that an item whose decoding fails does not fail the rest of the batch.
    """

    def __init__(self, api: litserve.LitAPI, settings: LitApiSettings) -> None:
        self._api, self._settings = api, settings

    def setup(self, device: str) -> None:
        """Set up the API and its route."""
        PROCESS.labels("worker").set(1)
        self._route = Route(lit_server(self._api, self._settings, "cpu", self._api.request_timeout))
        try:
            self._methods = Methods(self._api, device)
        except SetupError:
            sys.exit(SETUP_FAILED)

    def answer(self, batch: Iterable[Request]) -> dict[int, Reply]:
        """The replies to a batch's requests, by slot."""
        replies: dict[int, Reply] = {}
        decoded: list[tuple[Request, Any, dict[str, Any], float]] = []
        for request in batch:
            begin, context = time.perf_counter(), dict[str, Any]()
            SECONDS_OF["queue"].observe(begin - request.received)
            try:
                payload = self._route.payload(request.content_type, request.body)
                item = self._methods.call("decode_request", context, payload)
            except RefusedError as error:
                replies[request.slot] = error.reply
            except Exception as error:
                replies[request.slot] = self._reply(request, failure(error))
            else:
                decoded.append((request, item, context, time.perf_counter()))
            SECONDS_OF["decode"].observe(time.perf_counter() - begin)
        if not decoded:
            return replies
        requests, items, contexts, ends = map(list, zip(*decoded, strict=True))
        begin = end = time.perf_counter()
        try:
            inputs, context = self._methods.ready(items, contexts)
            begin = time.perf_counter()
            outputs = self._methods.call("predict", context, inputs)
            end = time.perf_counter()
            outcomes: list[Outcome] = [
                (answer, LitAPIStatus.OK) for answer in self._methods.encode(outputs, context)
            ]
        except Exception as error:
            end = max(begin, end)
            outcomes = [failure(error)] * len(items)
        BATCH_SIZE.observe(len(items))
        for request, decoded_at, outcome in zip(requests, ends, outcomes, strict=True):
            SECONDS_OF["batch_wait"].observe(begin - decoded_at)
            SECONDS_OF["model"].observe(end - begin)
            replies[request.slot] = self._reply(request, outcome)
            SECONDS_OF["encode"].observe(time.perf_counter() - end)
        return replies

    def _reply(self, request: Request, outcome: Outcome) -> Reply:
        return self._route.reply(request.content_type, request.body, outcome)


def failure(error: Exception) -> Outcome:
    """Log ``error`` and return it as the outcome of its requests; see ``end_if_sticky``."""
    end_if_sticky(error)
    if isinstance(error, LengthError):
        logger.error("predict or unbatch: %s", error)
        error = HTTPException(500, "Batch size mismatch")
    elif not isinstance(error, HTTPException):
        logger.exception("a request failed", exc_info=error)
    return error, LitAPIStatus.ERROR


class StageTimes(Callback):
    """Registers LitServe's worker processes, and times the stages of requests (monotonic clock).

    One object is both a callback and a proxy of the request queue: pickled together, they stay one in the
    worker. ``batch_wait`` is the time from a request's arrival in the worker until ``predict``, less its
    decoding; ``encode`` lasts until the request's answer, with the answers before it in the batch.
    """

    def __init__(self) -> None:
        self._queue: Any = None
        self._taken: list[float] = []  # when each request of the batch left the queue
        self._decode_s: list[float] = []
        self._predicted = 0.0

    def replace_queue(self, server: litserve.LitServer) -> None:
        """Become a proxy of the request queue of the server's only API."""
        get_queue = server._get_request_queue

        def get_self(api_path: str) -> StageTimes:
            self._queue = get_queue(api_path)
            return self

        server._get_request_queue = get_self

    def on_after_setup(self, lit_api: litserve.LitAPI) -> None:
        """Called by LitServe in the worker: wrap the API's methods with timers."""
        PROCESS.labels("worker").set(1)
        for name in ("decode_request", "predict", "encode_response") if self._queue else ():
            method = getattr(lit_api, name)
            timed = functools.partial(getattr(self, f"_{name}"), method)
            functools.update_wrapper(timed, method)  # LitServe reads the signature
            setattr(lit_api, name, timed)

    def put(self, item: Any) -> None:
        """The queue's ``put``."""
        self._queue.put(item)

    def get(self, *arguments: Any, **options: Any) -> Any:
        """The queue's ``get``."""
        return self._take(self._queue.get(*arguments, **options))

    def get_nowait(self) -> Any:
        """The queue's ``get_nowait``."""
        return self._take(self._queue.get_nowait())

    def _take(self, item: Any) -> Any:
        now = time.monotonic()
        if self._decode_s:  # LitServe decodes whole batches: a new batch begins
            self._taken, self._decode_s = [], []
        self._taken.append(now)
        if (sent := item[2]) is not None:  # None tells the loop to end
            SECONDS_OF["queue"].observe(now - sent)
        return item

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
