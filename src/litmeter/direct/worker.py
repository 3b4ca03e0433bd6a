"""The worker process: sets up a responder, then collects batches and sends the replies."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from multiprocessing.connection import Connection
from time import perf_counter
from typing import NoReturn, Protocol

from litmeter.direct.channel import Channel
from litmeter.direct.messages import Reply, Request
from litmeter.direct.settings import WorkerSettings
from litmeter.system.signals import kill_with_parent


class Responder(Protocol):
    """Answers requests; pickled to each worker, and set up there."""

    def setup(self, device: str) -> None:
        """Load the model."""

    def answer(self, batch: Iterable[Request]) -> dict[int, Reply]:
        """The replies to a batch, by slot; decodes each request before it takes the next from ``batch``."""


def run_worker(
    responder: Responder,
    settings: WorkerSettings,
    device: str,
    channel: Channel,
    index: int,
    events: Connection,
) -> NoReturn:
    """Set up the responder on ``device``, report to ``events``, and answer batches until killed."""
    kill_with_parent(os.getppid())  # the forkserver, which ends with the main process
    responder.setup(device)
    events.send(("ready", index))
    channel.send_registration()
    while True:
        batch = collect_batch(channel, index, settings.max_batch_size, settings.batch_timeout_s)
        if replies := responder.answer(batch):
            channel.send_replies(replies)


def collect_batch(
    channel: Channel, index: int, max_batch_size: int, batch_timeout_s: float
) -> Iterator[Request]:
    """Wait for a request; yield it, and all that arrive within ``batch_timeout_s`` of its arrival.

    The caller decodes each request before it takes the next, so that requests which arrive meanwhile join
    the batch. With a timeout of 0, further requests are left to idle workers. Requests whose slot has been
    released are skipped.
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
        request = channel.receive_request(index)
        left_s = deadline - perf_counter()
        if request is None and (left_s <= 0 or not channel.wait_readable(left_s)):
            return
