"""The HTTP process, a real uvicorn with a short patience: it answers or refuses each request once."""

from __future__ import annotations

import errno
import json
import socket
import time
from collections.abc import Callable, Iterator
from http.client import HTTPResponse
from typing import Any

import pytest
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from litmeter.direct.http import LimitedProtocol
from litmeter.direct.messages import Request
from litmeter.direct.metrics import RequestTimer
from tests.support.http_process import (
    BY_THE_APP,
    CAPACITY,
    PATIENCE_S,
    PREDICT,
    HttpProcess,
    answer,
    connected,
    http_process,
    next_answer,
)

CHUNKED = PREDICT.replace(b"Content-Length: 5", b"Transfer-Encoding: chunked") + b"5\r\n12345\r\n0\r\n\r\n"
ANSWERED = 200, b"12345, image/jpeg"
REFUSED = 503, b'{"detail":"the server is full; try again later"}'
OTHER = b"POST / HTTP/1.1\r\nHost: x\r\n"


@pytest.fixture(scope="module")
def process() -> Iterator[HttpProcess]:
    with http_process() as process:
        yield process


@pytest.fixture
def full(process: HttpProcess) -> Iterator[HttpProcess]:
    slots = [process.channel.slots.acquire() for _ in range(CAPACITY)]
    yield process
    for slot in slots:
        process.channel.slots.release(slot)


@pytest.fixture
def connection(process: HttpProcess) -> Iterator[socket.socket]:
    with connected(process) as connection:
        yield connection


@pytest.fixture(autouse=True)
def _nothing_is_left(process: HttpProcess) -> Iterator[None]:
    yield
    soon(lambda: len(process.channel.slots.free) == CAPACITY and RequestTimer.in_flight == 0)


def soon(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_plain_request_in_any_pieces_gets_its_answer(connection: socket.socket) -> None:
    for pieces in (
        [PREDICT + b"12345"],
        [PREDICT, b"12", b"345"],
        [PREDICT[:30], PREDICT[30:] + b"12345"],
    ):
        for piece in pieces:
            connection.sendall(piece)
            time.sleep(0.02)
        assert answer(connection) == ANSWERED
    connection.sendall(PREDICT.replace(b"image/jpeg", b"application/json") + b"12345")
    assert answer(connection) == (200, b"12345, application/json")


@pytest.mark.parametrize("first", [PREDICT, PREDICT.replace(b"/predict", b"/")])
def test_pipelined_requests_are_answered_in_order(connection: socket.socket, first: bytes) -> None:
    expected = ANSWERED if first == PREDICT else BY_THE_APP
    with connection.makefile("rb") as stream:
        connection.sendall(2 * (first + b"12345" + PREDICT + b"67890" + CHUNKED) + PREDICT + b"12345")
        once = [expected, (200, b"67890, image/jpeg"), ANSWERED]
        assert [next_answer(stream) for _ in range(7)] == [*once, *once, ANSWERED]
        connection.sendall(PREDICT + b"12345")
        assert answer(connection) == ANSWERED


@pytest.mark.parametrize("sent", [PREDICT + b"123", PREDICT + b"54321"])
def test_requests_of_a_disconnected_client_are_not_worked(process: HttpProcess, sent: bytes) -> None:
    process.at_work.clear()
    with connected(process) as connection:
        connection.sendall(sent)
        soon(lambda: process.dispatcher.admitted == 1)
    soon(lambda: process.dispatcher.admitted == 0)
    process.at_work.set()
    with connected(process) as connection:
        connection.sendall(PREDICT + b"12345")
        assert answer(connection) == ANSWERED
    assert b"54321" not in process.taken


@pytest.fixture
def silent(process: HttpProcess) -> Iterator[socket.socket]:
    """A connection whose client reads no answers, with little room for them."""
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(30.0)
        connection.connect(process.address)
        yield connection


def test_a_client_that_reads_no_answers_gets_no_more(process: HttpProcess, silent: socket.socket) -> None:
    """Else they would fill the memory of the server."""
    for _ in range(5000):
        done = len(process.taken)
        silent.sendall(PREDICT + b"12345")
        patience = time.monotonic() + 1.0
        while len(process.taken) == done and time.monotonic() < patience:
            time.sleep(0.0005)
        if len(process.taken) == done:
            return
    pytest.fail("every request was answered")


def test_a_client_that_reads_no_answers_holds_no_slot(process: HttpProcess, silent: socket.socket) -> None:
    """The kernel ends its connection, which waits to be closed until all answers are sent."""

    def ten_are_taken() -> None:
        expected = len(process.taken) + 10
        silent.sendall(10 * (PREDICT + b"98765"))
        soon(lambda: len(process.taken) == expected)

    for _ in range(25):  # of more at once, one may be read in two parts, and refused for its late second one
        ten_are_taken()
    silent.sendall(PREDICT + b"123")
    soon(lambda: process.dispatcher.admitted == 1)
    soon(lambda: process.dispatcher.admitted == 0)


def test_an_idle_connection_is_closed_after_its_answer(connection: socket.socket) -> None:
    connection.sendall(PREDICT + b"12345")
    assert answer(connection) == ANSWERED
    connection.sendall(b"\r\n")
    assert connection.recv(1) == b""


def test_a_bad_request_behind_a_pending_one_gets_no_answer(
    process: HttpProcess, connection: socket.socket
) -> None:
    process.at_work.clear()
    connection.sendall(PREDICT + b"12345" + b"hello\r\n\r\n")
    assert connection.recv(1) == b""
    process.at_work.set()


def test_a_request_that_cannot_reach_a_worker_gets_503(
    process: HttpProcess, connection: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_handle(request: Request) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(process.channel, "send_request", no_handle)
    connection.sendall(PREDICT + b"12345")
    assert answer(connection)[0] == 503
    monkeypatch.undo()
    connection.sendall(PREDICT + b"12345")
    assert answer(connection) == ANSWERED


def test_a_client_of_a_full_server_may_ask_again_on_its_connection(
    full: HttpProcess, connection: socket.socket
) -> None:
    passed_on = full.passed_on
    for sent in (PREDICT + b"12345", PREDICT + b"123", b"45" + PREDICT + b"12345"):
        connection.sendall(sent)
        assert answer(connection) == REFUSED
    assert full.passed_on == passed_on
    connection.sendall(PREDICT)
    response = HTTPResponse(connection)
    response.begin()
    assert (response.status, response.headers["retry-after"]) == (503, "1")
    assert response.headers["content-type"] == "application/json"
    assert response.headers["server"] == "uvicorn"
    assert "GMT" in response.headers["date"]


def test_a_refused_client_does_not_hold_its_connection(full: HttpProcess) -> None:
    """Neither by a body that does not come, nor by saying nothing more; and no second answer is sent."""
    with connected(full) as half, connected(full) as idle, connected(full) as late:
        half.sendall(PREDICT + b"1")
        idle.sendall(PREDICT + b"12345")
        late.sendall(PREDICT)
        assert answer(late) == REFUSED
        late.sendall(b"12345")
        for connection in (half, idle):
            assert answer(connection) == REFUSED
        for connection in (half, idle, late):
            assert connection.recv(1) == b""


@pytest.mark.parametrize(
    "sent",
    [
        CHUNKED,
        PREDICT.replace(b"/predict", b"/predict?a=b") + b"12345",
        PREDICT.replace(b"HTTP/1.1", b"HTTP/1.0") + b"12345",
        PREDICT.replace(b"HTTP/1.1\r\n", b"HTTP/1.0\r\nConnection: keep-alive\r\n") + b"12345",
        PREDICT.replace(b"Host", b"Connection: close\r\nHost") + b"12345",
        PREDICT.replace(b"Host", b"Connection: upgrade\r\nUpgrade: h2c\r\nHost") + b"12345",
        PREDICT.replace(b"Host", b"Expect: 100-continue\r\nHost"),
    ],
)
def test_unusual_predictions_are_refused_by_the_route(
    full: HttpProcess, connection: socket.socket, sent: bytes
) -> None:
    passed_on = full.passed_on
    connection.sendall(sent)
    assert answer(connection) == REFUSED
    assert full.passed_on == passed_on + 1


@pytest.mark.usefixtures("full")
def test_other_requests_are_answered_by_a_full_server_in_order(connection: socket.socket) -> None:
    other, put = (PREDICT.replace(*pair) + b"12345" for pair in [(b"/predict", b"/info"), (b"POST", b"PUT")])
    with connection.makefile("rb") as stream:
        connection.sendall(PREDICT + b"12345" + other + 2 * (PREDICT + b"12345") + put)
        expected = [REFUSED, BY_THE_APP, REFUSED, REFUSED, BY_THE_APP]
        assert [next_answer(stream) for _ in expected] == expected


def test_uvicorn_calls_every_method_that_is_overridden(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most are none of its documented interface, and could have another name in its next version."""
    methods = {name: method for name, method in vars(LimitedProtocol).items() if callable(method)}
    overridden = {name for name in methods if hasattr(HttpToolsProtocol, name) and name[:2] != "__"}
    called: set[str] = set()

    def recorded(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            called.add(name)
            return method(*arguments)

        return call

    for name in overridden:
        monkeypatch.setattr(LimitedProtocol, name, recorded(name, methods[name]))
    with http_process() as process:
        for sent in (PREDICT + b"12345", b"hello\r\n\r\n"):
            with connected(process) as connection:
                connection.sendall(sent)
                answer(connection)
                assert connection.recv(1) == b""  # idle for too long, or refused
    assert called == overridden
    assert len(called) == 8


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"POST / HTT",
        OTHER + b"X-Half",
        OTHER + b"Content-Length: 5\r\n\r\n",
        OTHER + b"Content-Length: 5\r\n\r\n123",
        OTHER + b"Transfer-Encoding: chunked\r\n\r\n3\r\n123\r\n",
        PREDICT,
        PREDICT + b"123",
    ],
)
def test_a_request_that_arrives_too_slowly_gets_408(connection: socket.socket, sent: bytes) -> None:
    connection.sendall(sent)
    status, body = answer(connection)
    assert (status, "0.3 s" in json.loads(body)["detail"]) == (408, True)
    assert connection.recv(1) == b""


def test_a_slow_answer_leaves_its_connection_open(connection: socket.socket) -> None:
    for _ in range(2):
        connection.sendall(OTHER + b"Content-Length: 5\r\n\r\n12345")
        assert answer(connection) == (200, b"app")
        time.sleep(1.5 * PATIENCE_S)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (OTHER + b"X-Long: " + b"a" * (LimitedProtocol.MAX_HEAD_BYTES + 1), 431),
        (b"hello\r\n\r\n", 400),
    ],
)
def test_a_malformed_request_is_refused_as_json(connection: socket.socket, sent: bytes, status: int) -> None:
    connection.sendall(sent)
    got, body = answer(connection)
    assert (got, list(json.loads(body))) == (status, ["detail"])
