"""The limits on how a request arrives, in a real uvicorn with a short patience."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from http.client import HTTPResponse

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from servebench.serving.direct.protocol import LimitedProtocol

PATIENCE_S = 0.3


class Impatient(LimitedProtocol):
    ARRIVES_WITHIN_S = PATIENCE_S


async def slow_app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with the body, later than the request had to arrive."""
    message = await receive()
    while message.get("more_body", False):
        message = await receive()
    await asyncio.sleep(2 * PATIENCE_S)
    headers = [(b"content-length", b"2")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"ok"})


@pytest.fixture(scope="module")
def address() -> Iterator[tuple[str, int]]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        config = uvicorn.Config(slow_app, http=Impatient, ws="none", lifespan="off", log_level="critical")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        yield listening.getsockname()
        server.should_exit = True
        thread.join()


def answer(connection: socket.socket) -> tuple[int, bytes]:
    response = HTTPResponse(connection)
    response.begin()
    return response.status, response.read()


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"POST / HTT",
        b"POST / HTTP/1.1\r\nHost: x\r\nX-Half",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n123",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n123\r\n",
    ],
)
def test_who_does_not_come_to_the_end_is_not_waited_for(address: tuple[str, int], sent: bytes) -> None:
    with socket.create_connection(address, timeout=30) as connection:
        connection.sendall(sent)
        status, body = answer(connection)
        assert status == 408
        assert json.loads(body) == {"detail": "the request did not arrive within 0.3 s"}
        assert connection.recv(1) == b""


def test_an_answer_may_take_its_time_and_the_connection_is_used_again(address: tuple[str, int]) -> None:
    request = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n12345"
    with socket.create_connection(address, timeout=30) as connection:
        for _ in range(2):
            connection.sendall(request)
            assert answer(connection) == (200, b"ok")
            time.sleep(1.5 * PATIENCE_S)


def test_a_head_that_grows_without_end_is_cut_off(address: tuple[str, int]) -> None:
    with socket.create_connection(address, timeout=30) as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nX-Long: " + b"a" * (LimitedProtocol.MAX_HEAD_BYTES + 1))
        assert answer(connection)[0] == 431


def test_what_is_no_http_gets_its_reason_as_json(address: tuple[str, int]) -> None:
    with socket.create_connection(address, timeout=30) as connection:
        connection.sendall(b"hello\r\n\r\n")
        status, body = answer(connection)
        assert status == 400
        assert "Invalid HTTP request" in json.loads(body)["detail"]
