"""One connection of the load generator, against servers that answer in every way HTTP allows.

In a process of its own, as the load generator's: gevent patches what it runs in.
"""

from __future__ import annotations

import itertools
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

ASK = """
import json, sys
from litmeter.load.process import Connection, post_head
url, times, timeout_s = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
connection = Connection(url, timeout_s)
request = post_head(url, {"Content-Type": "image/jpeg", "X-Own": "1"}, 100_000) + b"x" * 100_000
for _ in range(times):
    status, content, *_ = connection.send(request)
    print(json.dumps([status, content.decode()]))
"""


def ask(url: str, times: int = 1, timeout_s: float = 5.0) -> list[tuple[int, str]]:
    command = [sys.executable, "-c", ASK, url, str(times), str(timeout_s)]
    output = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
    return [tuple(json.loads(line)) for line in output.splitlines()]


@contextmanager
def scripted(
    answer: bytes, close: bool = False, read: bool = True
) -> Iterator[tuple[str, list[list[bytes]]]]:
    """Answers each request with the same bytes: its URL, and the heads that came by each connection."""
    connections: list[list[bytes]] = []

    def serve() -> None:
        while True:
            try:
                peer, _ = listener.accept()
            except OSError:
                return
            connections.append([])
            with peer, peer.makefile("rb") as incoming:
                while head := b"".join(itertools.takewhile(lambda line: line != b"\r\n", incoming)):
                    connections[-1].append(head)
                    if read:
                        incoming.read(100_000)
                    peer.sendall(answer)
                    if close:
                        break

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/predict?k=1", connections
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    ],
    ids=["length", "chunked", "after 100"],
)
def test_a_connection_is_kept(answer: bytes) -> None:
    with scripted(answer) as (url, connections):
        assert ask(url, 3) == [(200, "hello")] * 3
    [heads] = connections
    [head] = set(heads)
    assert head.startswith(b"POST /predict?k=1 HTTP/1.1\r\n")
    for line in (b"Content-Length: 100000", b"Content-Type: image/jpeg", b"X-Own: 1", b"Host: 127.0.0.1:"):
        assert line in head


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 503 Busy\r\nConnection: close\r\nContent-Length: 4\r\n\r\nbusy",
        b"HTTP/1.1 503 Busy\r\n\r\nbusy",
    ],
    ids=["said", "by its end"],
)
def test_a_connection_that_was_closed_is_opened_anew(answer: bytes) -> None:
    with scripted(answer, close=True) as (url, connections):
        assert ask(url, 2) == [(503, "busy")] * 2
    assert len(connections) == 2


@pytest.mark.parametrize(
    ("answer", "close"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello", True),
        (b"SSH-2.0-OpenSSH\r\n", True),
        (b"", True),
        (b"", False),
    ],
    ids=["cut off", "not HTTP", "no answer", "silence"],
)
def test_what_is_no_answer_has_status_0(answer: bytes, close: bool) -> None:
    with scripted(answer, close=close) as (url, _):
        assert ask(url, timeout_s=0.5) == [(0, "")]


def test_a_refusal_before_the_body_was_read_is_an_answer() -> None:
    refusal = b"HTTP/1.1 413 Too large\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno"
    with scripted(refusal, read=False) as (url, _):
        [(status, _)] = ask(url)
    # The kernel may throw the answer away with the connection: then there is none, but it is never another.
    assert status in (413, 0)
