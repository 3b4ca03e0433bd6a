"""The HTTP process's route: how it reads a body."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from litmeter.serving.direct.admission import Admission
from litmeter.serving.direct.channel import Channel, Request, Response
from litmeter.serving.direct.dispatcher import Dispatcher
from litmeter.serving.direct.route import DirectRoute
from tests.support.direct import open_channel

JPEG = [(b"content-type", b"image/jpeg")]


def through_the_route(chunks: list[bytes], headers: dict[bytes, bytes]) -> tuple[int, bytes, int]:
    """Status and body of the answer, and how many chunks were read; the worker answers with the body."""
    sent: list[Any] = []
    read = 0

    async def receive() -> dict[str, Any]:
        nonlocal read
        if read == len(chunks):
            if b"partial" not in headers:
                await asyncio.Event().wait()  # the client stays for the answer
            return {"type": "http.disconnect"}
        read += 1
        # A client that goes away never sends the rest.
        more = read < len(chunks) or b"partial" in headers
        return {"type": "http.request", "body": chunks[read - 1], "more_body": more}

    async def send_back(message: Any) -> None:
        sent.append(message)

    async def never(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError("LitServe's route is not reached")

    async def run(channel: Channel) -> None:
        def serve() -> None:
            request = channel.wait_for_request(0)
            channel.send_responses([Response(request.slot, 200, request.body)])

        worker = threading.Thread(target=serve)
        worker.start()
        dispatcher = Dispatcher(channel, 5.0, 1)
        dispatcher.start()
        route = DirectRoute(never, Admission(dispatcher, 100, None, timed=False), 1.0)
        scope = {"type": "http", "path": "/predict", "method": "POST", "headers": [*JPEG, *headers.items()]}
        await route(scope, receive, send_back)
        channel.send_request(Request(1, True, 0.0, b""))  # a worker that got nothing ends with this
        worker.join()

    with open_channel(4) as channel:
        asyncio.run(run(channel))
    return sent[0]["status"], sent[1]["body"], read


@pytest.mark.parametrize(
    ("chunks", "headers", "status", "body", "read"),
    [
        ([b"image"], {}, 200, b"image", 1),
        ([b"im", b"a", b"ge"], {}, 200, b"image", 3),
        ([b"x" * 101], {b"content-length": b"101"}, 413, b"too large", 0),
        ([b"x" * 60, b"x" * 60, b"x"], {}, 413, b"too large", 2),
        ([b"x" * 60, b"x" * 60, b"x"], {b"content-length": b"7"}, 413, b"too large", 2),
        ([b"half"], {b"partial": b""}, 400, b"not whole", 1),
    ],
)
def test_the_route_reads_a_body_up_to_its_limit(
    chunks: list[bytes],
    headers: dict[bytes, bytes],
    status: int,
    body: bytes,
    read: int,
) -> None:
    got = through_the_route(chunks, headers)
    assert (got[0], got[2]) == (status, read)
    assert body in got[1]


def test_a_client_gone_within_its_body_frees_its_slot() -> None:
    """So does one that is too slow: the protocol ends its connection."""
    sent: list[Any] = []
    pieces = iter([{"type": "http.request", "body": b"half", "more_body": True}, {"type": "http.disconnect"}])

    async def receive() -> dict[str, Any]:
        return next(pieces)

    async def send_back(message: Any) -> None:
        sent.append(message)

    async def never(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError("LitServe's route is not reached")

    async def run(channel: Channel) -> None:
        admission = Admission(Dispatcher(channel, 5.0, 1), 100, None, timed=False)
        route = DirectRoute(never, admission, 1.0)
        scope = {"type": "http", "path": "/predict", "method": "POST"}
        await route({**scope, "headers": [(b"content-type", b"image/jpeg")]}, receive, send_back)
        assert channel.slots.in_flight == 0

    with open_channel(1) as channel:
        asyncio.run(run(channel))
    assert sent[0]["status"] == 400
