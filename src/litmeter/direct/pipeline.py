"""A LitAPI without a server: requests as LitServe's HTTP process queues them, run as LitServe's loops do."""

from __future__ import annotations

import itertools
import logging
import os
import pickle
import sys
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from types import ModuleType
from typing import Any

from litserve import LitAPI

from litmeter.direct.lit_methods import LengthError, Methods, Route
from litmeter.direct.litserve_internals import Server, adopted, spec_of
from litmeter.direct.messages import RequestError
from litmeter.errors import ApiError
from litmeter.system.cores import allowed_cpus
from litmeter.system.device import wait_for


class ApiPipeline(Methods):
    """The work of a LitAPI in a worker.

    Args:
        payloads: pickled payloads, of ``payloads_of``.
    """

    def __init__(self, api: LitAPI, device: str, payloads: Sequence[bytes]) -> None:
        self.threads = int(os.environ.get("OMP_NUM_THREADS", 0)) or len(allowed_cpus())
        self._requests = itertools.cycle(payloads)
        self._on_gpu = device == "cuda"
        self._first: float | None = None  # when the first piece of the last answers came
        super().__init__(api, "cuda:0" if self._on_gpu else device)

    def batch(self, size: int) -> list[tuple[Any, Any]]:
        """Arguments of ``predict`` and contexts for the next requests: a single batch, or ``size`` items."""
        return [self.ready(*self._decode(group)) for group in self._groups(self._next(size))]

    def run(self, kind: str, size: int, batch: list[tuple[Any, Any]]) -> float | None:
        """Preprocess or answer the next ``size`` requests, or run the model alone on ``batch``.

        Return the seconds until the first piece of streamed answers; else None.
        """
        begin, self._first = perf_counter(), None
        if kind == "preprocess":
            self._decode(self._next(size))
        elif kind == "pipeline":
            self.answers(self._next(size))
        else:
            for inputs, contexts in batch:
                output = self.call("predict", contexts, inputs)
                for _ in output if self.streams else ():
                    pass
            if self._on_gpu and (torch := sys.modules.get("torch")):
                wait_for(torch.device("cuda:0"))
        return None if self._first is None else self._first - begin

    def answers(self, requests: Sequence[bytes]) -> list[Any]:
        """The answers to requests, in a single batch if batched; raise LengthError for too few or many."""
        groups = self._groups(requests)
        return [answer for group in groups for answer in self.finish(*self.ready(*self._decode(group)))]

    def finish(self, inputs: Any, contexts: Any) -> list[Any]:
        """The answers to arguments of ``predict``; a streamed answer is the list of its pieces."""
        outputs = self.call("predict", contexts, inputs)
        if not self.streams:
            return self.encode(outputs, contexts)
        pieces = []
        for piece in self.encode_stream(outputs, contexts):
            self._first = self._first or perf_counter()
            pieces.append(piece)
        number = len(contexts) if self.batched else 1
        if other := next((piece for piece in pieces if len(piece) != number), None):
            raise LengthError(f"{len(other)} outputs in a piece for {number} inputs")
        return [[piece[place] for piece in pieces] for place in range(number)]

    def _groups(self, requests: Sequence[bytes]) -> list[Sequence[bytes]]:
        """The requests that LitServe would run together."""
        return [requests] if self.batched else [[request] for request in requests]

    def _decode(self, requests: Sequence[bytes]) -> tuple[list[Any], list[Any]]:
        """The inputs in requests, and a context for each."""
        payloads = [pickle.loads(request) for request in requests]  # noqa: S301
        contexts: list[Any] = [{} for _ in requests]
        pairs = list(zip(contexts, payloads, strict=True))
        if (populate := getattr(spec_of(self.api), "populate_context", None)) is not None:
            for context, payload in pairs:
                populate(context, payload)
        return [self.call("decode_request", *pair) for pair in pairs], contexts

    def _next(self, size: int) -> list[bytes]:
        return list(itertools.islice(self._requests, size))


class _Errors(logging.Handler):
    """Keeps the last error that LitServe logs: LitServe's answer, a 500, does not tell it."""

    last: BaseException | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Called for each log record."""
        self.last = record.exc_info[1] if record.exc_info else None


def payloads_of(server: Server, bodies: Sequence[bytes], content_type: str) -> list[bytes]:
    """The pickled payload that LitServe's HTTP process queues for each body; raise ApiError for a refusal."""
    route, errors, payloads = Route(server), _Errors(), list[bytes]()
    logging.getLogger("litserve").addHandler(errors)
    try:
        for body in bodies:
            payloads.append(pickle.dumps(route.payload(content_type.encode("latin-1"), body)))
    except RequestError as error:
        status, answer, _ = error.reply
        reason = answer.decode(errors="replace")
        if errors.last:
            reason = f"{type(errors.last).__name__}: {errors.last}"
        number = len(payloads) + 1
        raise ApiError(
            f"body {number} is refused with status {status}, as {content_type}: {reason}"
        ) from error
    return payloads


def reached(words: Sequence[str]) -> Server:
    """Run a script, a file and its arguments, as ``__main__`` up to its ``LitServer.run``; return the server.

    Only in a process whose start-up module (``kinds/injected``) was told to raise ``Reached`` there. The
    script stays ``__main__``: processes that are spawned import it, as LitServe's workers do. Raise ApiError
    where it ends before its server runs, and whatever the script raises.
    """
    file = str(Path(words[0]).absolute())
    module = ModuleType("__main__")
    module.__file__ = file
    sys.modules["__main__"], sys.argv = module, [words[0], *words[1:]]
    sys.path.insert(0, str(Path(file).parent))
    try:
        exec(compile(Path(file).read_bytes(), file, "exec", dont_inherit=True), vars(module))
    except BaseException as error:
        if type(error).__name__ != "Reached":  # which may be in no sys.modules
            raise
        return adopted(error.server)  # type: ignore[attr-defined]
    raise ApiError(f"{words[0]} ended before its server ran")
