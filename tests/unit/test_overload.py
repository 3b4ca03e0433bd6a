"""A full server refuses predictions at their head, and does nothing more for them."""

from __future__ import annotations

from collections.abc import Iterator
from http.client import HTTPResponse

import pytest

from litmeter.direct.metrics import RequestTimer
from tests.support.http_process import (
    BY_THE_APP,
    CAPACITY,
    PREDICT,
    HttpProcess,
    answer,
    connected,
    http_process,
    next_answer,
)

REFUSED = 503, b'{"detail":"the server is full; try again later"}'
CHUNKED = PREDICT.replace(b"Content-Length: 5", b"Transfer-Encoding: chunked") + b"5\r\n12345\r\n0\r\n\r\n"


@pytest.fixture(scope="module")
def full() -> Iterator[HttpProcess]:
    with http_process() as process:
        slots = [process.channel.slots.acquire() for _ in range(CAPACITY)]
        yield process
        for slot in slots:
            process.channel.slots.release(slot)
        assert RequestTimer.in_flight == 0


def test_a_refused_client_may_ask_again_on_its_connection(full: HttpProcess) -> None:
    with connected(full) as connection:
        for sent in (PREDICT + b"12345", PREDICT + b"123", b"45" + PREDICT + b"12345"):
            connection.sendall(sent)
            assert answer(connection) == REFUSED
    assert full.passed_on == 0


def test_a_refused_client_gets_retry_after(full: HttpProcess) -> None:
    with connected(full) as connection:
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
def test_unusual_predictions_are_refused_by_the_route(full: HttpProcess, sent: bytes) -> None:
    passed_on = full.passed_on
    with connected(full) as connection:
        connection.sendall(sent)
        assert answer(connection) == REFUSED
    assert full.passed_on == passed_on + 1


@pytest.mark.parametrize("change", [(b"/predict", b"/info"), (b"POST", b"PUT")])
def test_other_requests_are_answered(full: HttpProcess, change: tuple[bytes, bytes]) -> None:
    with connected(full) as connection:
        connection.sendall(PREDICT.replace(*change) + b"12345")
        assert answer(connection) == BY_THE_APP


def test_pipelined_predictions_are_refused_in_order(full: HttpProcess) -> None:
    other = PREDICT.replace(b"/predict", b"/info") + b"12345"
    with connected(full) as connection, connection.makefile("rb") as stream:
        connection.sendall(PREDICT + b"12345" + other + 2 * (PREDICT + b"12345"))
        assert [next_answer(stream) for _ in range(4)] == [REFUSED, BY_THE_APP, REFUSED, REFUSED]
