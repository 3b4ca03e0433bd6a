"""How a request arrives, or is turned away, in a real uvicorn with a short patience."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.client import HTTPResponse

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from servebench.serving.direct.protocol import LimitedProtocol

PATIENCE_S = 0.3
KEEP_ALIVE_S = 1
TURNED_AWAY = 503, b'{"detail": "full"}'
full = threading.Event()
"""Set where the server is full."""


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
        protocol = partial(Impatient, turn_away=lambda: TURNED_AWAY if full.is_set() else None)
        config = uvicorn.Config(
            slow_app,
            http=protocol,
            ws="none",
            lifespan="off",
            log_level="critical",
            timeout_keep_alive=KEEP_ALIVE_S,
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        yield listening.getsockname()
        server.should_exit = True
        thread.join()


@pytest.fixture
def full_house() -> Iterator[None]:
    full.set()
    yield
    full.clear()


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


HEAD = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n"


@pytest.mark.usefixtures("full_house")
def test_who_is_turned_away_may_ask_again_on_the_same_connection(address: tuple[str, int]) -> None:
    with socket.create_connection(address, timeout=30) as connection:
        for sent in (HEAD + b"12345", HEAD + b"123", b"45" + HEAD + b"12345"):
            connection.sendall(sent)
            assert answer(connection) == TURNED_AWAY
        full.clear()
        connection.sendall(HEAD + b"12345")
        assert answer(connection) == (200, b"ok")


@pytest.mark.usefixtures("full_house")
def test_who_is_turned_away_is_told_when_to_come_back(address: tuple[str, int]) -> None:
    with socket.create_connection(address, timeout=30) as connection:
        connection.sendall(HEAD)
        response = HTTPResponse(connection)
        response.begin()
        assert (response.status, response.headers["retry-after"]) == (503, "1")


@pytest.mark.usefixtures("full_house")
def test_who_is_turned_away_does_not_hold_the_connection(address: tuple[str, int]) -> None:
    """Neither by a body that does not come, nor by saying nothing more; and no second answer is sent."""
    with (
        socket.create_connection(address, timeout=30) as half,
        socket.create_connection(address, timeout=30) as idle,
    ):
        half.sendall(HEAD + b"1")
        idle.sendall(HEAD + b"12345")
        for connection in (half, idle):
            assert answer(connection) == TURNED_AWAY
            assert connection.recv(1) == b""


@pytest.mark.usefixtures("full_house")
@pytest.mark.parametrize(
    "head",
    [
        HEAD.replace(b"/predict", b"/info"),
        HEAD.replace(b"POST", b"PUT"),
        HEAD.replace(b"HTTP/1.1", b"HTTP/1.0"),
        HEAD.replace(b"Host", b"Connection: close\r\nHost"),
        HEAD.replace(b"Host", b"Connection: upgrade\r\nUpgrade: h2c\r\nHost"),
    ],
)
def test_all_else_is_left_to_the_app(address: tuple[str, int], head: bytes) -> None:
    with socket.create_connection(address, timeout=30) as connection:
        connection.sendall(head + b"12345")
        assert answer(connection) == (200, b"ok")


@pytest.mark.usefixtures("full_house")
def test_answers_on_one_connection_keep_their_order(address: tuple[str, int]) -> None:
    first = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n12345"
    with socket.create_connection(address, timeout=30) as connection:
        connection.sendall(first + HEAD + b"12345")
        assert [answer(connection), answer(connection)] == [(200, b"ok"), (200, b"ok")]
