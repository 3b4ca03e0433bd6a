"""What litmeter uses of LitServe beside its documented interface, from LitServe 0.2.6 on.

Versions are told apart by what they have, never by their numbers. What the direct transport overrides of
uvicorn is in ``http``.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import multiprocessing
import pickle
import signal
import socket
import sys
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from multiprocessing.context import BaseContext
from types import SimpleNamespace
from typing import Any

import litserve
import uvicorn
from fastapi import HTTPException
from litserve import LitAPI, LitServer
from litserve.callbacks import Callback
from litserve.utils import WorkerSetupStatus

from litmeter.direct.metrics import BATCH_SIZE, PROCESS, SECONDS_OF
from litmeter.errors import ApiError
from litmeter.system.signals import TERMINATION_SIGNALS

API_TAKES = frozenset(inspect.signature(LitAPI.__init__).parameters)
"""Settings that are arguments of LitAPI; LitServer takes the others."""


def not_available(package: str) -> str:
    """What a user is told of a feature that the installed package lacks."""
    return f"not available with {package} {version(package)}"


def configure(api: LitAPI, max_batch_size: int, batch_timeout_s: float, path: str = "/predict") -> None:
    """Give an API its settings, whether or not its constructor takes them."""
    api.max_batch_size, api.batch_timeout, api.api_path = max_batch_size, batch_timeout_s, path


def is_initialised(api: LitAPI) -> bool:
    """Whether the API's constructor has called that of LitAPI, if LitAPI has one."""
    return LitAPI.__init__ is object.__init__ or "enable_async" in vars(api)


def spec_of(api: LitAPI) -> Any:
    """The API's spec, which stands for the API's route and for methods that the API lacks; None without."""
    return getattr(api, "_spec", None)


def has_own_loop(api: LitAPI) -> bool:
    """Whether the API brings a loop; call this before a server takes it, and replaces its loop."""
    return bool(getattr(api, "_loop", "auto") != "auto")


class Server(LitServer):
    """LitServe's server of one API with the settings of ``configure``; ``options`` are those of LitServer.

    Attributes:
        wrap_queue: makes what takes the place of the request queue.
    """

    wrap_queue: Callable[[Any], Any] = staticmethod(lambda queue: queue)

    def __init__(self, api: LitAPI, **options: Any) -> None:
        names = {"max_batch_size", "batch_timeout", "api_path"} - API_TAKES
        handlers = {number: signal.getsignal(number) for number in TERMINATION_SIGNALS}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The LitServer has both batch and unbatch")
            super().__init__(api, **{name: getattr(api, name) for name in names}, **options)
        for number, handler in handlers.items():  # early LitServe replaces them
            if signal.getsignal(number) is not handler:
                signal.signal(number, handler)

    def _get_request_queue(self, api_path: str) -> Any:
        return self.wrap_queue(super()._get_request_queue(api_path))

    def __setattr__(self, name: str, value: Any) -> None:  # early LitServe has one queue for all APIs
        super().__setattr__(name, self.wrap_queue(value) if name == "request_queue" else value)

    def stand_in(self, queues: Queues) -> None:
        """Have the route use ``queues``, and check no API key; raise ApiError where that is not possible."""
        self.__dict__.update(response_buffer=queues, request_queue=queues)
        if (spec := spec_of(self.lit_api)) is not None:
            if not hasattr(spec, "request_queue"):
                raise ApiError(f"a spec without a server: {not_available('litserve')}")
            spec.response_buffer = spec.request_queue = queues
        self._get_request_queue = lambda api_path: queues  # type: ignore[method-assign]
        each = inspect.signature(self.setup_auth).parameters  # each API has its own check
        self.app.dependency_overrides[self.setup_auth(self.lit_api) if each else self.setup_auth()] = _allow

    def kill_failed_workers(self) -> bool:
        """Whether a worker's ``setup`` has failed; if so, kill all: they would miss LitServe's manager."""
        if WorkerSetupStatus.ERROR not in self.workers_setup_status.values():
            return False
        for child in multiprocessing.active_children():
            if "Manager" not in child.name:
                child.kill()
        return True


def adopted(server: Any) -> Server:
    """A server of one API that somebody else has made, as a ``Server``."""
    server.__class__ = Server
    if not hasattr(server.lit_api, "api_path"):  # early LitServe has it in the server
        server.lit_api.api_path = server.api_path
    assert isinstance(server, Server)
    return server


async def _allow() -> None:
    """Stands in for LitServe's check of the API key."""


class Queues(dict[str, Any]):
    """Stands in for LitServe's request queue and response buffer: takes a payload, or gives an outcome."""

    payload: bytes | None = None
    outcome: tuple[Any, str] | None = None

    def put(self, item: tuple[Any, ...]) -> None:
        """The request queue's ``put``."""
        if self.outcome is None:
            self.payload = pickle.dumps(item[-1])
            raise HTTPException(200)  # ends the route, which would wait for an answer

    put_nowait = put

    def __setitem__(self, uid: str, waiting: Any) -> None:
        if self.outcome is None:  # ``put`` follows
            return
        if isinstance(waiting, asyncio.Event):
            super().__setitem__(uid, self.outcome)
            waiting.set()
        else:
            waiting.response = self.outcome
            super().__setitem__(uid, waiting)
            waiting.event.set()


def fork_workers(workers: BaseContext) -> None:
    """Have ``workers`` start LitServe's workers, which LitServe would spawn.

    The main process forks LitServe's manager, on all versions of Python.
    """
    replaced = {
        "get_context": lambda method: workers if method == "spawn" else multiprocessing.get_context(method),
        "Manager": multiprocessing.get_context("fork").Manager,
    }
    litserve.server.mp = SimpleNamespace(**vars(multiprocessing) | replaced)


def listen_on(listener: socket.socket) -> None:
    """Have uvicorn use a bound socket: LitServe has no option for it, uvicorn's fd is for Unix sockets."""
    uvicorn.Config.bind_socket = lambda self: listener  # type: ignore[method-assign]


def check_direct() -> None:
    """Raise ApiError if uvicorn lacks what the direct transport overrides."""
    try:
        import litmeter.direct.http  # noqa: F401
    except ImportError as error:
        reason = f"{not_available('uvicorn')} ({error})"
        raise ApiError(f"transport: direct: {reason}; allowed: litserve") from error


class StageTimes(Callback):
    """Registers LitServe's worker processes, and times the stages of requests (monotonic clock).

    One object is both a callback and a proxy of the request queue: pickled together, they stay one in the
    worker. ``batch_wait`` is the time from a request's arrival in the worker until ``predict``, less its
    decoding; ``encode`` lasts until the request's answer, with the answers before it in the batch.
    """

    def __init__(self, *, are_wanted: bool) -> None:
        self.are_wanted = are_wanted
        self._queue: Any = None
        self._taken: list[float] = []  # when each request of the batch left the queue
        self._decode_s: list[float] = []
        self._predicted = 0.0

    def wrap(self, queue: Any) -> StageTimes:
        """Become a proxy of the request queue."""
        self._queue = queue
        return self

    def on_after_setup(self, lit_api: litserve.LitAPI) -> None:
        """Called by LitServe in the worker: wrap the API's methods with timers."""
        PROCESS.labels("worker").set(1)
        if self.are_wanted and self._queue is None:
            print(f"litmeter: stage times: {not_available('litserve')}", file=sys.stderr, flush=True)
        for name in ("decode_request", "predict", "encode_response") if self._queue else ():
            method = getattr(lit_api, name)
            timed = functools.partial(getattr(self, f"_{name}"), method)
            functools.update_wrapper(timed, method)  # LitServe reads the signature
            setattr(lit_api, name, timed)

    def put(self, item: Any) -> None:
        """The queue's ``put``."""
        self._queue.put(item)

    put_nowait = put

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
