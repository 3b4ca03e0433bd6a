"""The two ends of the direct transport: a channel, a worker that needs no model, and who asks."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from litmeter.classifier.server.responder import is_image
from litmeter.direct.channel import Channel
from litmeter.direct.dispatcher import Dispatcher
from litmeter.direct.http import DirectRoute
from litmeter.direct.messages import Reply
from litmeter.kinds.classifier import Classifier
from litmeter.kinds.configuration import Configuration

IMAGE_HEAD = [(b"content-type", b"image/jpeg")]
MAX_BYTES = 1_000_000


@contextmanager
def open_channel(capacity: int) -> Iterator[Channel]:
    """A channel whose sockets are closed in the end."""
    channel = Channel(capacity, 4)
    try:
        yield channel
    finally:
        for end in vars(channel).values():
            if isinstance(end, socket.socket):
                end.close()


def die(channel: Channel, seconds: float) -> None:
    """A worker that dies with its first request, after a time."""
    channel.send_registration()
    request = channel.wait_for_request(0)
    assert channel.slots.claim(request.slot, 0, os.getpid())
    time.sleep(seconds)
    os._exit(1)


async def ask(dispatcher: Dispatcher, body: bytes) -> Reply:
    """The answer to an image, asked for as the route does it."""
    admitted = route_to(dispatcher, MAX_BYTES).admit(IMAGE_HEAD)
    if isinstance(admitted, Reply):
        return admitted
    slot = dispatcher.slots.acquire()
    try:
        return await dispatcher.submit(slot, admitted, body, never_disconnects)
    finally:
        dispatcher.release(slot)


def route_to(
    dispatcher: Dispatcher,
    max_bytes: int,
    key: str | None = None,
    settings: Configuration = Classifier(drain_s=0.0),  # noqa: B008 -- frozen
) -> DirectRoute:
    """A route without an app behind it."""

    async def nothing(*_: object) -> None:
        raise NotImplementedError

    return DirectRoute(nothing, dispatcher, settings, "/predict", key, of_images(max_bytes))


def of_images(max_bytes: int) -> Callable[[bytes], int]:
    """A limit of bodies that are images or JSON; others are refused."""

    def limit(content_type: bytes) -> int:
        is_image(content_type)
        return max_bytes

    return limit


async def never_disconnects() -> Any:
    """Wait for what the connection of a client that stays has to say."""
    await asyncio.Event().wait()
