"""The workers' side, as a LitServe loop: take what is ready, run it, answer, sleep until there is more."""

from __future__ import annotations

import json
import logging
import os
import select
import signal
from collections.abc import Iterable, Iterator, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any

from fastapi.responses import JSONResponse
from litserve.loops.base import LitLoop

from servebench.processes import die_with
from servebench.serving.direct.channel import Answer, Channel, Request
from servebench.serving.refusals import refusal

if TYPE_CHECKING:
    from servebench.serving.api import ClassifierAPI

logger = logging.getLogger(__name__)

ENCODER = json.JSONEncoder(separators=(",", ":"))


class DirectLoop(LitLoop):
    """Batches without waiting, unless ``batch_timeout`` says so."""

    def __init__(self, channel: Channel) -> None:
        super().__init__()
        self._channel = channel
        self._greeted = False
        self._server = os.getpid()

    def note_death(self, worker: int) -> None:
        """In the main process: the worker of that number has died."""
        self._channel.note_death(worker)

    def run(self, lit_api: ClassifierAPI, *_: Any, **__: Any) -> None:
        """Answer one batch; LitServe calls this again and again, with its own queues, which stay empty."""
        if not self._greeted:
            # A terminal, or who stops a whole service, signals every process. But workers are needed to
            # the end: the main process kills them when there is nothing left to do.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            die_with(self._server)
            self._channel.send_hello()
            self._greeted = True
        answers = answer_all(lit_api, self._collect(lit_api.max_batch_size, lit_api.batch_timeout))
        if answers:
            self._channel.send_answers(answers)

    def _collect(self, max_batch_size: int, batch_timeout_s: float) -> Iterator[Request]:
        """The first request, and what is there or comes within the timeout, which counts from it.

        Who iterates decodes each before it asks for the next: what comes meanwhile is there, too. Without
        a timeout, what another worker could begin at once is left to it. Requests that nobody waits for
        any more are left out.
        """
        worker, take = os.getpid(), self._channel.tickets.take
        first = self._channel.wait_for_request(self.worker_id)
        closes = first.received + batch_timeout_s
        request: Request | None = first
        size = 0
        while True:
            if request is not None and take(request.ticket, worker):
                yield request
                size += 1
            if size >= max_batch_size or (size and batch_timeout_s == 0 and self._channel.another_waits()):
                return
            request = self._channel.receive_request()
            left_s = closes - perf_counter()
            if request is None and (left_s <= 0 or not self._comes_within(left_s)):
                return

    def _comes_within(self, seconds: float) -> bool:
        return bool(select.select([self._channel.requests_file()], [], [], seconds)[0])


def answer_all(lit_api: ClassifierAPI, batch: Iterable[Request]) -> list[Answer]:
    """Decode, run and encode a batch; a bad item is refused and harms no other."""
    tickets, items = [], []
    for request in batch:
        tickets.append(request.ticket)
        items.append(lit_api.decode_body(request.is_image, request.body, request.received))
    if not items:
        return []
    outputs: Sequence[Any]
    try:
        outputs = lit_api.answers(items)
    except Exception:
        logger.exception("the model failed on a batch of %d", len(items))
        outputs = [refusal(500, "Internal server error")] * len(items)
    return [
        Answer(ticket, *encoded(lit_api.encode_response(output)))
        for ticket, output in zip(tickets, outputs, strict=True)
    ]


def encoded(output: dict[str, Any] | JSONResponse) -> tuple[int, bytes]:
    """HTTP status and body of what ``encode_response`` returned."""
    if isinstance(output, JSONResponse):
        return output.status_code, bytes(output.body)
    return 200, ENCODER.encode(output).encode()
