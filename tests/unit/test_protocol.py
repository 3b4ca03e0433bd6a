"""Limits on how a request arrives, in a real uvicorn with short ones."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from litmeter.direct.http import LimitedProtocol
from tests.support.http_process import PATIENCE_S, PREDICT, answer, http_process


@pytest.fixture(scope="module")
def address() -> Iterator[tuple[str, int]]:
    with http_process() as process:
        yield process.address


def test_uvicorn_calls_every_method_that_is_overridden(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most are none of its documented interface, and could have another name in its next version."""
    overridden = {name for name in vars(LimitedProtocol) if hasattr(HttpToolsProtocol, name)}
    overridden = {
        name for name in overridden if callable(getattr(LimitedProtocol, name)) and name[:2] != "__"
    }
    called: set[str] = set()

    def recorded(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            called.add(name)
            return method(*arguments)

        return call

    for name in overridden:
        monkeypatch.setattr(LimitedProtocol, name, recorded(name, getattr(LimitedProtocol, name)))
    with http_process() as process:
        for sent in (PREDICT + b"12345", b"hello\r\n\r\n"):
            with socket.create_connection(process.address, timeout=30) as connection:
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
        b"POST / HTTP/1.1\r\nHost: x\r\nX-Half",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n123",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n123\r\n",
        PREDICT,
        PREDICT + b"123",
    ],
)
def test_a_request_that_arrives_too_slowly_gets_408(address: tuple[str, int], sent: bytes) -> None:
    with socket.create_connection(address, timeout=30) as connection:
        connection.sendall(sent)
        status, body = answer(connection)
        assert status == 408
        assert json.loads(body) == {"detail": "the request did not arrive within 0.3 s"}
        assert connection.recv(1) == b""


def test_a_slow_answer_leaves_its_connection_open(address: tuple[str, int]) -> None:
    request = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n12345"
    with socket.create_connection(address, timeout=30) as connection:
        for _ in range(2):
            connection.sendall(request)
            assert answer(connection) == (200, b"app")
            time.sleep(1.5 * PATIENCE_S)


def test_a_head_without_end_gets_431(address: tuple[str, int]) -> None:
    with socket.create_connection(address, timeout=30) as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nX-Long: " + b"a" * (LimitedProtocol.MAX_HEAD_BYTES + 1))
        assert answer(connection)[0] == 431


def test_a_bad_request_gets_its_reason_as_json(address: tuple[str, int]) -> None:
    with socket.create_connection(address, timeout=30) as connection:
        connection.sendall(b"hello\r\n\r\n")
        status, body = answer(connection)
        assert status == 400
        assert "Invalid HTTP request" in json.loads(body)["detail"]
