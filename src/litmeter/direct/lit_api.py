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
from collections.abc import Iterable
from contextlib import suppress
from inspect import isasyncgenfunction, iscoroutinefunction, isgeneratorfunction
from pathlib import Path
from typing import Any, TypeGuard

import litserve
from fastapi import HTTPException
from litserve.utils import LitAPIStatus

from litmeter.direct.binding import LOG_VARIABLE, PATH_FILE
from litmeter.direct.lit_methods import LengthError, Methods, Outcome, Route, route_of
from litmeter.direct.litserve_internals import (
    API_TAKES,
    Server,
    StageTimes,
    check_direct,
    configure,
    has_own_loop,
    is_initialised,
    not_available,
    spec_of,
)
from litmeter.direct.messages import SETUP_FAILED, Reply, Request, RequestError
from litmeter.direct.metrics import BATCH_SIZE, PROCESS, SECONDS_OF
from litmeter.direct.run import run_server
from litmeter.direct.settings import LitApiSettings
from litmeter.errors import ApiError, StorageError
from litmeter.system.device import end_if_sticky
from litmeter.system.files import write_text

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
        with suppress(OSError, StorageError):  # another worker may be writing the same
            write_text(log, "".join(traceback.format_exception(error)))
        with suppress(FileExistsError):
            (Path(tempfile.gettempdir()) / "setup").touch(exist_ok=False)
            print(f"litmeter: {name}: setup: {in_a_line(error)}; its log: {log}", file=sys.stderr, flush=True)
        logging.getLogger("litserve").setLevel(logging.CRITICAL)  # it would log the traceback
        raise SetupError from error


class SetupError(Exception):
    """``setup`` has failed in a worker, and has been reported."""


def make_api(settings: LitApiSettings, kind: type[litserve.LitAPI]) -> litserve.LitAPI:
    """An instance with the settings."""
    with warnings.catch_warnings():  # LitServe warns of a batch method without max_batch_size
        warnings.simplefilter("ignore")
        api = kind(**settings.api_kwargs)
    if not is_initialised(api):
        raise TypeError("__init__ does not call super().__init__()")
    configure(api, settings.max_batch_size, settings.batch_timeout_s, settings.path)
    if settings.transport == "direct":
        check_direct()
        if unusual := unusual_features(api) or "authorize" * hasattr(api, "authorize"):
            raise ApiError(f"transport: direct serves no LitAPI with {unusual}; allowed: litserve")
    return api


def unusual_features(api: litserve.LitAPI, *, in_process: bool = False) -> str:
    """Features that only LitServe's loops and transport can run; empty without any.

    Streams and specs run in-process, too. Call this before a ``LitServer`` takes the API, and replaces its
    loop.
    """
    features = {
        "stream": api.stream and not in_process,
        "spec": spec_of(api) is not None and not in_process,
        "mcp": getattr(api, "mcp", None) is not None,
        "enable_async": getattr(api, "enable_async", False),
        "its own loop": has_own_loop(api),
    }
    return ", ".join(name for name, has_it in features.items() if has_it)


class NullAPI(litserve.LitAPI):
    """Answers at once: a request costs what the transport costs."""

    def setup(self, device: str) -> None:
        """Load nothing."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        NullAPI.decode_request.__annotations__["request"] = self.request

    def decode_request(self, request):  # type: ignore[no-untyped-def]  # annotated by __setstate__
        """Read nothing."""

    def predict(self, x: Any) -> Any:
        """0 for each item."""
        return [0] * len(x) if self.max_batch_size > 1 else 0


class NullStreamAPI(NullAPI):
    """Answers at once in a stream of a single piece."""

    def predict(self, x: Any) -> Any:
        """The piece."""
        yield ["0"] * len(x) if self.max_batch_size > 1 else "0"

    def encode_response(self, output: Any) -> Any:
        """The same."""
        yield from output


def null_api(settings: LitApiSettings, kind: type[litserve.LitAPI]) -> litserve.LitAPI:
    """The null API that takes the same requests as the class ``kind``."""
    request = inspect.signature(kind.decode_request).parameters["request"].annotation
    streams = getattr(make_api(settings, kind), "stream", False)  # early LitServe has it in the server
    own = settings.model_copy(update={"api_kwargs": {"stream": True} if streams else {}})
    api = make_api(own, NullStreamAPI if streams else NullAPI)
    api.__setstate__({"request": request})  # LitServe parses requests by this annotation
    return api


def lit_server(api: litserve.LitAPI, settings: LitApiSettings, device: str, timeout_s: float) -> Server:
    """LitServe's server of one API on one device; raise LitServe's errors for an API that it refuses."""
    if "request" not in inspect.signature(api.decode_request).parameters:
        raise TypeError("decode_request's parameter must be named request")
    lacking = not_available("litserve")
    for name in ("decode_request", "predict", "encode_response"):
        is_async = any(check(getattr(api, name)) for check in (iscoroutinefunction, isasyncgenfunction))
        if is_async and not getattr(api, "enable_async", False) and not has_own_loop(api):
            needs = "__init__ needs super().__init__(enable_async=True)"
            raise TypeError(f"{name} is async: {needs if 'enable_async' in API_TAKES else lacking}")
    if isgeneratorfunction(api.predict) and "stream" not in API_TAKES:
        raise TypeError(f"predict streams: {lacking}")
    times = StageTimes(are_wanted=not unusual_features(api))
    server = Server(
        api,
        accelerator=device,
        devices=1,
        workers_per_device=settings.workers,
        timeout=timeout_s,
        callbacks=[times],
    )
    if times.are_wanted:
        server.wrap_queue = times.wrap
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
    options |= {"is_healthy": functools.partial(is_healthy, api), "num_api_servers": settings.num_api_servers}
    responder = ApiResponder(api, settings)
    try:
        run_server(server, responder, settings, device, timeout_s, **options)
    except RuntimeError:  # from LitServe, if no worker could be set up
        if not server.kill_failed_workers():
            raise
        sys.exit(ApiError.exit_code)


async def is_healthy(api: litserve.LitAPI) -> bool:
    """The verdict of ``health``, asked where LitServe asks: in the HTTP process, without ``setup``."""
    if not hasattr(api, "health"):
        return True
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
            except RequestError as error:
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
