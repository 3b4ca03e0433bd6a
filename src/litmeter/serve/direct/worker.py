"""The worker process: loads the model, then collects, runs and answers batches."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Iterator
from multiprocessing.connection import Connection
from time import perf_counter
from typing import NoReturn

from litmeter.serve.classifier import Classifier, Output, Prediction
from litmeter.serve.direct.channel import Channel, Request, Response
from litmeter.serve.errors import Reply, error_reply
from litmeter.system.signals import kill_with_parent

logger = logging.getLogger(__name__)

ENCODER = json.JSONEncoder(separators=(",", ":"))


def run_worker(
    classifier: Classifier, device: str, index: int, channel: Channel, ready_sender: Connection
) -> NoReturn:
    """Load the model on ``device``, say so to ``ready_sender``, and answer batches until killed."""
    kill_with_parent(os.getppid())  # the forkserver, which ends with the main process
    classifier.setup(device)
    settings = classifier.settings
    ready_sender.send(True)
    channel.send_registration()
    while True:
        batch = collect_batch(channel, index, settings.max_batch_size, settings.batch_timeout_s)
        if responses := answer_batch(classifier, batch):
            channel.send_responses(responses)


def collect_batch(
    channel: Channel, index: int, max_batch_size: int, batch_timeout_s: float
) -> Iterator[Request]:
    """Wait for a request; yield it and those that arrive within the timeout, counted from its arrival.

    The caller decodes each request before it asks for the next, so that requests which arrive meanwhile
    join the batch. With a timeout of 0, requests are left to another worker if one is idle. Requests whose
    slot has been released are skipped.
    """
    process, claim = os.getpid(), channel.slots.claim
    first = channel.wait_for_request(index)
    deadline = first.received + batch_timeout_s
    request: Request | None = first
    size = 0
    while True:
        if request is not None and claim(request.slot, index, process):
            yield request
            size += 1
        if size >= max_batch_size or (size and batch_timeout_s == 0 and channel.has_idle_worker()):
            return
        request = channel.receive_request()
        left_s = deadline - perf_counter()
        if request is None and (left_s <= 0 or not channel.wait_readable(left_s)):
            return


def answer_batch(classifier: Classifier, batch: Iterable[Request]) -> list[Response]:
    """Decode, run and encode a batch; an invalid request gets an error response, and the others go on."""
    slots, items = [], []
    for request in batch:
        slots.append(request.slot)
        items.append(classifier.decode_body(request.is_image, request.body, request.received))
    if not items:
        return []
    try:
        outputs = classifier.predict_batch(items)
    except Exception:
        logger.exception("the model failed on a batch of %d", len(items))
        failure = Output(error_reply(500, "Internal server error"), perf_counter())
        outputs = [failure] * len(items)
    return [
        Response(slot, *_encode(classifier.content_of(output)))
        for slot, output in zip(slots, outputs, strict=True)
    ]


def _encode(content: Prediction | Reply) -> Reply:
    return content if isinstance(content, Reply) else Reply(200, ENCODER.encode(content).encode())
