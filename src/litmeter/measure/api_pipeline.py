"""A LitAPI without a server: requests as LitServe's HTTP process queues them, run as its loops run them."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import pickle
import sys
from collections.abc import Sequence
from typing import Any

from fastapi import HTTPException
from litserve import LitAPI, LitServer
from litserve.loops.base import _inject_context

from litmeter.errors import ApiError
from litmeter.measure.bodies import Bodies
from litmeter.serve.binding import KEY_HEADER, KEY_VARIABLE


class LengthError(Exception):
    """A batch has another number of outputs than of inputs."""


class ApiPipeline:
    """The work of a LitAPI in a worker, on single items where its largest batch is one, else on batches.

    Args:
        payloads: of requests, pickled; see ``payloads_of``.
    """

    def __init__(self, api: LitAPI, device: str, payloads: Sequence[bytes]) -> None:
        self.api, self.batched = api, api.max_batch_size > 1
        self.threads = int(os.environ.get("OMP_NUM_THREADS", 0)) or os.cpu_count() or 1
        self._requests = itertools.cycle(payloads)
        self._device = "cuda:0" if device == "cuda" else device  # as LitServe names it
        self.call("setup", None, self._device)
        api.device = self._device

    def call(self, method: str, context: Any, *arguments: Any) -> Any:
        """Call a method of the API, with the context if it takes one."""
        return _inject_context(context, getattr(self.api, method), *arguments)

    def batch(self, size: int) -> list[tuple[Any, Any]]:
        """What ``predict`` takes, with contexts: a batch of the next requests, or as many items."""
        return [self._ready(group) for group in self._groups(self._next(size))]

    def run(self, kind: str, size: int, batch: list[tuple[Any, Any]]) -> None:
        """Do work of a kind on the next ``size`` requests, the model alone on ``batch``."""
        if kind == "preprocess":
            self._decode(self._next(size))
        elif kind == "pipeline":
            self.answers(self._next(size))
        else:
            for inputs, contexts in batch:
                self.call("predict", contexts, inputs)
            if self._device.startswith("cuda") and "torch" in sys.modules:
                sys.modules["torch"].cuda.synchronize()

    def answers(self, requests: Sequence[bytes]) -> list[Any]:
        """The answers to requests, one batch where it batches; raise LengthError for too few or many."""
        return [answer for group in self._groups(requests) for answer in self.finish(*self._ready(group))]

    def finish(self, inputs: Any, contexts: Any) -> list[Any]:
        """The answers to a batch, or to an item, that is ready for ``predict``."""
        outputs = self.call("predict", contexts, inputs)
        if not self.batched:
            return [self.call("encode_response", contexts, outputs)]
        outputs = self.call("unbatch", contexts, outputs)
        if len(outputs) != len(contexts):
            raise LengthError(f"{len(outputs)} outputs for {len(contexts)} inputs")
        return [self.call("encode_response", *each) for each in zip(contexts, outputs, strict=True)]

    def _groups(self, requests: Sequence[bytes]) -> list[Sequence[bytes]]:
        """What LitServe would run together."""
        return [requests] if self.batched else [[request] for request in requests]

    def _ready(self, group: Sequence[bytes]) -> tuple[Any, Any]:
        inputs, contexts = self._decode(group)
        return (self.call("batch", contexts, inputs), contexts) if self.batched else (inputs[0], contexts[0])

    def _decode(self, requests: Sequence[bytes]) -> tuple[list[Any], list[Any]]:
        """The inputs in requests, and a context for each."""
        contexts: list[Any] = [{} for _ in requests]
        pairs = zip(requests, contexts, strict=True)
        return [self.call("decode_request", one, pickle.loads(each)) for each, one in pairs], contexts  # noqa: S301

    def _next(self, size: int) -> list[bytes]:
        return list(itertools.islice(self._requests, size))


class _Queue:
    """In place of LitServe's request queue: keeps a payload, and has LitServe answer at once."""

    payload: bytes | None = None

    def put(self, item: tuple[Any, ...]) -> None:
        self.payload = pickle.dumps(item[-1])
        raise HTTPException(200)


class _Errors(logging.Handler):
    """Keeps the last error that LitServe logs: its answer, a 500, does not say it."""

    last: BaseException | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Called with each record."""
        self.last = record.exc_info[1] if record.exc_info else None


def payloads_of(server: LitServer, path: str, bodies: Bodies) -> list[bytes]:
    """What LitServe's HTTP process puts on the queue of a worker for each body, pickled.

    Raises:
        ApiError: it refuses a body.
    """
    queue, errors = _Queue(), _Errors()
    server._get_request_queue = lambda api_path: queue
    logging.getLogger("litserve").addHandler(errors)
    return asyncio.run(_payloads(server.app, path, bodies, queue, errors))


async def _payloads(app: Any, path: str, bodies: Bodies, queue: _Queue, errors: _Errors) -> list[bytes]:
    payloads: list[bytes] = []
    for number, body in enumerate(bodies.contents, 1):
        queue.payload, answer = None, list[dict[str, Any]]()
        headers = {"content-type": bodies.content_type, "content-length": str(len(body))}
        headers |= {
            KEY_HEADER.lower(): os.environ.get(KEY_VARIABLE, "")
        }  # LitServe asks for it where there is one
        scope = {
            "type": "http",
            "method": "POST",
            "path": path,
            "query_string": b"",
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        }
        messages = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> Any:
            return messages.pop()  # noqa: B023

        async def send(message: Any) -> None:
            answer.append(message)  # noqa: B023

        await app(scope, receive, send)
        if queue.payload is None:
            said = b"".join(message.get("body", b"") for message in answer).decode(errors="replace")
            reason = f"{type(errors.last).__name__}: {errors.last}" if errors.last else said
            raise ApiError(f"body {number} is refused with status {answer[0]['status']}: {reason}")
        payloads.append(queue.payload)
    return payloads
