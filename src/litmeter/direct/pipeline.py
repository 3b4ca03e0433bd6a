"""A LitAPI without a server: requests as LitServe's HTTP process queues them, run as its loops run them."""

from __future__ import annotations

import itertools
import logging
import os
import pickle
import sys
from collections.abc import Sequence
from typing import Any

from litserve import LitAPI, LitServer

from litmeter.direct.lit_methods import Methods, RefusedError, Route
from litmeter.errors import ApiError
from litmeter.system.cores import allowed_cpus
from litmeter.system.device import wait_for


class ApiPipeline(Methods):
    """The work of a LitAPI in a worker.

    Args:
        payloads: of requests, pickled; see ``payloads_of``.
    """

    def __init__(self, api: LitAPI, device: str, payloads: Sequence[bytes]) -> None:
        self.threads = int(os.environ.get("OMP_NUM_THREADS", 0)) or len(allowed_cpus())
        self._requests = itertools.cycle(payloads)
        self._on_gpu = device == "cuda"
        super().__init__(api, "cuda:0" if self._on_gpu else device)

    def batch(self, size: int) -> list[tuple[Any, Any]]:
        """What ``predict`` takes, with contexts: a batch of the next requests, or as many items."""
        return [self.ready(*self._decode(group)) for group in self._groups(self._next(size))]

    def run(self, kind: str, size: int, batch: list[tuple[Any, Any]]) -> None:
        """Do work of a kind on the next ``size`` requests, the model alone on ``batch``."""
        if kind == "preprocess":
            self._decode(self._next(size))
        elif kind == "pipeline":
            self.answers(self._next(size))
        else:
            for inputs, contexts in batch:
                self.call("predict", contexts, inputs)
            if self._on_gpu and (torch := sys.modules.get("torch")):
                wait_for(torch.device("cuda:0"))

    def answers(self, requests: Sequence[bytes]) -> list[Any]:
        """The answers to requests, one batch where it batches; raise LengthError for too few or many."""
        groups = self._groups(requests)
        return [answer for group in groups for answer in self.finish(*self.ready(*self._decode(group)))]

    def finish(self, inputs: Any, contexts: Any) -> list[Any]:
        """The answers to a batch, or to an item, that is ready for ``predict``."""
        return self.encode(self.call("predict", contexts, inputs), contexts)

    def _groups(self, requests: Sequence[bytes]) -> list[Sequence[bytes]]:
        """What LitServe would run together."""
        return [requests] if self.batched else [[request] for request in requests]

    def _decode(self, requests: Sequence[bytes]) -> tuple[list[Any], list[Any]]:
        """The inputs in requests, and a context for each."""
        contexts: list[Any] = [{} for _ in requests]
        pairs = zip(requests, contexts, strict=True)
        return [self.call("decode_request", one, pickle.loads(each)) for each, one in pairs], contexts  # noqa: S301

    def _next(self, size: int) -> list[bytes]:
        return list(itertools.islice(self._requests, size))


class _Errors(logging.Handler):
    """Keeps the last error that LitServe logs: its answer, a 500, does not say it."""

    last: BaseException | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Called with each record."""
        self.last = record.exc_info[1] if record.exc_info else None


def payloads_of(server: LitServer, bodies: Sequence[bytes], content_type: str) -> list[bytes]:
    """What LitServe's HTTP process puts on the queue of a worker for each body, pickled.

    Raises:
        ApiError: it refuses a body.
    """
    route, errors, payloads = Route(server), _Errors(), list[bytes]()
    logging.getLogger("litserve").addHandler(errors)
    try:
        for body in bodies:
            payloads.append(pickle.dumps(route.payload(content_type.encode("latin-1"), body)))
    except RefusedError as error:
        status, body, _ = error.reply
        reason = (
            f"{type(errors.last).__name__}: {errors.last}" if errors.last else body.decode(errors="replace")
        )
        number = len(payloads) + 1
        as_type = f"status {status}, as {content_type}"
        raise ApiError(f"body {number} is refused with {as_type}: {reason}") from error
    return payloads
