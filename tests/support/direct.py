"""The two ends of the direct transport: a channel, a worker that needs no model, and who asks."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from litmeter.serve.direct.channel import Channel, Response
from litmeter.serve.direct.dispatcher import Dispatcher
from litmeter.serve.direct.http import DirectRoute
from litmeter.serve.errors import Reply

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


def work(channel: Channel, number: int, seconds: float, kind: str) -> None:
    """A worker that answers with the body, or dies with its first request, claimed (dies) or not (drops)."""
    channel.send_registration()
    while True:
        request = channel.wait_for_request(number)
        if kind == "drops":
            os._exit(1)
        if not channel.slots.claim(request.slot, number, os.getpid()):
            continue
        time.sleep(seconds)
        if kind == "dies":
            os._exit(1)
        channel.send_responses([Response(request.slot, 200, request.body)])


async def ask(dispatcher: Dispatcher, body: bytes) -> Reply:
    """The answer to an image, asked for as the route does it."""
    admitted = route_to(dispatcher, MAX_BYTES).admit(IMAGE_HEAD)
    if isinstance(admitted, Reply):
        return admitted
    slot, is_image = admitted
    try:
        return await dispatcher.submit(slot, is_image, body, never_disconnects)
    finally:
        dispatcher.release(slot)


def route_to(dispatcher: Dispatcher, max_bytes: int, key: str | None = None) -> DirectRoute:
    """A route without an app behind it."""

    async def nothing(*_: object) -> None:
        raise NotImplementedError

    return DirectRoute(nothing, dispatcher, max_bytes, key, timed=False, drain_s=0.0)


async def never_disconnects() -> Any:
    """Wait for what the connection of a client that stays has to say."""
    await asyncio.Event().wait()
