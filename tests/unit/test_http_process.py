"""Predictions and other requests on one connection: each is answered once, and holds nothing longer."""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Callable, Iterator

import pytest

from litmeter.direct.messages import Request
from litmeter.direct.metrics import RequestTimer
from tests.support.http_process import (
    BY_THE_APP,
    PREDICT,
    HttpProcess,
    answer,
    connected,
    http_process,
    next_answer,
)

ANSWERED = 200, b"12345, image/jpeg"


@pytest.fixture(scope="module")
def process() -> Iterator[HttpProcess]:
    with http_process() as process:
        yield process


@pytest.fixture(autouse=True)
def _nothing_is_left(process: HttpProcess) -> Iterator[None]:
    yield
    soon(lambda: process.channel.slots.in_flight == 0)
    soon(lambda: RequestTimer.in_flight == 0)


def soon(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_plain_request_in_any_pieces_gets_its_answer(process: HttpProcess) -> None:
    with connected(process) as connection:
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


CHUNKED = PREDICT.replace(b"Content-Length: 5", b"Transfer-Encoding: chunked") + b"5\r\n12345\r\n0\r\n\r\n"


@pytest.mark.parametrize("first", [PREDICT, PREDICT.replace(b"/predict", b"/")])
def test_pipelined_requests_are_answered_in_order(process: HttpProcess, first: bytes) -> None:
    expected = ANSWERED if first == PREDICT else BY_THE_APP
    with connected(process) as connection, connection.makefile("rb") as stream:
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
        soon(lambda: process.channel.slots.in_flight == 1)
    soon(lambda: process.channel.slots.in_flight == 0)
    process.at_work.set()
    with connected(process) as connection:
        connection.sendall(PREDICT + b"12345")
        assert answer(connection) == ANSWERED
    assert b"54321" not in process.taken


def test_a_client_that_reads_no_answers_gets_no_more(process: HttpProcess) -> None:
    """Else they would fill the memory of the server."""
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(30.0)
        connection.connect(process.address)
        for _ in range(5000):
            done = len(process.taken)
            connection.sendall(PREDICT + b"12345")
            patience = time.monotonic() + 1.0
            while len(process.taken) == done and time.monotonic() < patience:
                time.sleep(0.0005)
            if len(process.taken) == done:
                return
    pytest.fail("every request was answered")


def test_a_client_that_reads_no_answers_holds_no_slot(process: HttpProcess) -> None:
    """The kernel ends its connection, which waits to be closed until all answers are sent."""
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(30.0)
        connection.connect(process.address)
        expected = len(process.taken) + 250
        connection.sendall(250 * (PREDICT + b"12345") + PREDICT + b"123")
        soon(lambda: len(process.taken) == expected)
        soon(lambda: process.channel.slots.in_flight == 1)
        soon(lambda: process.channel.slots.in_flight == 0)


def test_an_idle_connection_is_closed_after_its_answer(process: HttpProcess) -> None:
    with connected(process) as connection:
        connection.sendall(PREDICT + b"12345")
        assert answer(connection) == ANSWERED
        connection.sendall(b"\r\n")
        assert connection.recv(1) == b""


def test_a_bad_request_behind_a_pending_one_gets_no_answer(process: HttpProcess) -> None:
    process.at_work.clear()
    with connected(process) as connection:
        connection.sendall(PREDICT + b"12345" + b"hello\r\n\r\n")
        assert connection.recv(1) == b""
    process.at_work.set()


def test_a_request_that_cannot_reach_a_worker_gets_503(
    process: HttpProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_handle(request: Request) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(process.channel, "send_request", no_handle)
    with connected(process) as connection:
        connection.sendall(PREDICT + b"12345")
        status, body = answer(connection)
        assert (status, b"no memory or file handle" in body) == (503, True)
        monkeypatch.undo()
        connection.sendall(PREDICT + b"12345")
        assert answer(connection) == ANSWERED
