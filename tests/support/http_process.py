"""An HTTP process with a short patience, in threads: a real uvicorn, and a worker that says what it got."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.client import parse_headers
from typing import BinaryIO

import uvicorn
from starlette.types import Receive, Scope, Send

from litmeter.direct.channel import Channel
from litmeter.direct.dispatcher import Dispatcher
from litmeter.direct.http import DirectRoute, DrainingServer, LimitedProtocol
from litmeter.direct.messages import Reply, Request
from litmeter.direct.metrics import RequestTimer
from litmeter.kinds.classifier import Classifier
from tests.support.direct import of_images, open_channel

PATIENCE_S = 0.3
KEEP_ALIVE_S = 1
UNREAD_MS = 5000
CAPACITY = 2
MAX_BYTES = 10
SETTINGS = Classifier(drain_s=0.0)
PREDICT = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nContent-Length: 5\r\n\r\n"
BY_THE_APP = 200, b"app"
"""Answer to all other requests."""
STOP = Request(1, b"", 0.0, b"")


class Impatient(LimitedProtocol):
    REQUEST_TIMEOUT_S = PATIENCE_S
    PROMPT_S = PATIENCE_S / 3


@dataclass
class HttpProcess:
    """What a test may look at.

    Attributes:
        passed_on: number of requests that the protocol has passed to the route.
        at_work: the worker works while this is set.
        taken: the bodies that it has worked on.
    """

    address: tuple[str, int]
    channel: Channel
    dispatcher: Dispatcher
    at_work: threading.Event
    taken: list[bytes]
    passed_on: int = 0


@contextmanager
def http_process(key: str | None = None) -> Iterator[HttpProcess]:
    """Serve predictions by the worker; to all other requests a slow app says ``app``."""
    with open_channel(CAPACITY) as channel, socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)  # so that little fills it
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNREAD_MS)
        dispatcher = Dispatcher(channel, SETTINGS, 30.0)

        async def slow_app(scope: Scope, receive: Receive, send: Send) -> None:
            while (await receive()).get("more_body", False):
                pass
            await asyncio.sleep(2 * PATIENCE_S)
            headers = [(b"content-length", b"3")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": b"app"})

        route = DirectRoute(slow_app, dispatcher, SETTINGS, "/predict", key, of_images(MAX_BYTES))
        process = HttpProcess(listening.getsockname(), channel, dispatcher, threading.Event(), [])
        process.at_work.set()

        async def counted(scope: Scope, receive: Receive, send: Send) -> None:
            process.passed_on += 1
            await route(scope, receive, send)

        config = uvicorn.Config(
            RequestTimer(counted),
            http=partial(Impatient, route=route),
            ws="none",
            lifespan="off",
            log_level="critical",
            timeout_keep_alive=KEEP_ALIVE_S,
        )
        server = DrainingServer(config, route)
        threads = [
            threading.Thread(target=server.run, kwargs={"sockets": [listening]}),
            threading.Thread(target=work, args=(process,)),
        ]
        for thread in threads:
            thread.start()
        try:
            yield process
        finally:
            server.should_exit = True
            process.at_work.set()
            channel.send_request(STOP)
            for thread in threads:
                thread.join()


def work(process: HttpProcess) -> None:
    """Answer with the body and what it is."""
    while True:
        request = process.channel.wait_for_request(0)
        process.at_work.wait()
        if request == STOP:
            return
        if process.channel.slots.claim(request.slot, 0, 1):
            process.taken.append(request.body)
            said = b"%b, %b" % (request.body, request.content_type)
            process.channel.send_replies({request.slot: Reply(200, said)})


def connected(process: HttpProcess) -> socket.socket:
    """A new connection to the process."""
    return socket.create_connection(process.address, timeout=30)


def answer(connection: socket.socket) -> tuple[int, bytes]:
    """Status and body of the next answer, with which nothing else comes."""
    with connection.makefile("rb") as stream:
        return next_answer(stream)


def next_answer(stream: BinaryIO) -> tuple[int, bytes]:
    """Status and body of the next answer; what comes after it stays in the stream."""
    status = int(stream.readline().split()[1])
    headers = parse_headers(stream)
    return status, stream.read(int(headers["content-length"]))
