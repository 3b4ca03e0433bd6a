"""A worker process: load the model; then take what is ready, run it, answer, sleep until there is more."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import select
from collections.abc import Iterable, Iterator, Sequence
from multiprocessing.connection import Connection
from time import perf_counter
from typing import TYPE_CHECKING, Any, NoReturn

from fastapi.responses import JSONResponse

from servebench.serving.direct.channel import Channel, Request, Response
from servebench.serving.errors import refusal
from servebench.system.signals import kill_with_parent

if TYPE_CHECKING:
    from servebench.serving.api import ClassifierAPI, Output

logger = logging.getLogger(__name__)

ENCODER = json.JSONEncoder(separators=(",", ":"))


def run_worker(
    api: ClassifierAPI, device: str, place: int, channel: Channel, tell_ready: Connection
) -> NoReturn:
    """Load the model on ``device``, say so, and answer batches until the main process kills it.

    Args:
        place: the worker's number, from 0.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None
    assert parent.pid is not None
    kill_with_parent(parent.pid)
    api.setup(device)
    tell_ready.send(True)
    channel.send_registration()
    while True:
        responses = answer_batch(api, collect_batch(channel, place, api.max_batch_size, api.batch_timeout))
        if responses:
            channel.send_responses(responses)


def collect_batch(
    channel: Channel, place: int, max_batch_size: int, batch_timeout_s: float
) -> Iterator[Request]:
    """The first request, and what is there or comes within the timeout, which counts from it.

    Who iterates decodes each before it asks for the next: what comes meanwhile is there, too. Without
    a timeout, what another worker could begin at once is left to it. Requests that nobody waits for
    any more are left out.
    """
    worker, claim = os.getpid(), channel.slots.claim
    first = channel.wait_for_request(place)
    closes = first.received + batch_timeout_s
    request: Request | None = first
    size = 0
    while True:
        if request is not None and claim(request.slot, worker):
            yield request
            size += 1
        if size >= max_batch_size or (size and batch_timeout_s == 0 and channel.another_waits()):
            return
        request = channel.receive_request()
        left_s = closes - perf_counter()
        if request is None and (left_s <= 0 or not _comes_within(channel, left_s)):
            return


def _comes_within(channel: Channel, seconds: float) -> bool:
    return bool(select.select([channel.requests_file()], [], [], seconds)[0])


def answer_batch(api: ClassifierAPI, batch: Iterable[Request]) -> list[Response]:
    """Decode, run and encode a batch; a bad item is refused and harms no other."""
    slots, items = [], []
    for request in batch:
        slots.append(request.slot)
        items.append(api.decode_body(request.is_image, request.body, request.received))
    if not items:
        return []
    outputs: Sequence[Output | JSONResponse]
    try:
        outputs = api.predict_batch(items)
    except Exception:
        logger.exception("the model failed on a batch of %d", len(items))
        outputs = [refusal(500, "Internal server error")] * len(items)
    return [
        Response(slot, *encoded(api.encode_response(output)))
        for slot, output in zip(slots, outputs, strict=True)
    ]


def encoded(output: dict[str, Any] | JSONResponse) -> tuple[int, bytes]:
    """HTTP status and body of what ``encode_response`` returned."""
    if isinstance(output, JSONResponse):
        return output.status_code, bytes(output.body)
    return 200, ENCODER.encode(output).encode()
