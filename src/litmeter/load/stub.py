"""A stub server of known service time and parallelism that logs arrival and departure of each request.

``python -m litmeter.load.stub SETTINGS [PORT]`` prints its port once it listens. Any POST is a request;
``GET /log`` answers with the log so far. Bodies are read and not kept. Without a service time the stub
answers at once, faster than the load generator sends: the rate is then the load generator's limit.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from random import Random
from time import perf_counter
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import requests
import uvloop
from httptools import HttpRequestParser

from litmeter.errors import LoadError
from litmeter.system.http import direct_session
from litmeter.system.processes import log_tail, process_group
from litmeter.system.temporary import scratch

SLOWDOWN = 1.4
"""Ratio of speeds that real machines have had within minutes."""
BACKLOG = 1024
"""Connections that are accepted while the process is stopped."""
BODY = b'{"image": "%s"}' % (b"A" * 45_000)
"""A request body of the size of a data set photograph in base64."""


class RunningStub(NamedTuple):
    """A listening stub server."""

    url: str
    process: subprocess.Popen[bytes]
    pieces: int

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    def log(self) -> npt.NDArray[np.float64]:
        """Arrival and departure of every request so far, in the order of departure, shape (n, 2).

        In further columns: when each piece of a streamed answer was sent. Times are seconds of the monotonic
        clock that the load generator uses.
        """
        try:
            with direct_session() as session:
                answer = session.get(f"{self.url}/log", timeout=30)
        except requests.RequestException as error:
            raise LoadError(f"the stub server does not answer ({type(error).__name__})") from error
        return np.array(answer.json(), dtype=np.float64).reshape(-1, 2 + self.pieces)


@contextmanager
def running_stub(service_s: float, parallel: int = 1, **options: Any) -> Iterator[RunningStub]:
    """Run a stub server on a free port of 127.0.0.1 until the block ends; arguments are those of ``Stub``.

    Raises:
        LoadError: the stub ended before it listened.
    """
    stub = Stub(service_s, parallel, **options)
    with (
        scratch() as folder,
        (log := folder / "log").open("wb") as stderr,
        process_group(
            [sys.executable, "-m", "litmeter.load.stub", json.dumps(astuple(stub))],
            stdout=subprocess.PIPE,
            stderr=stderr,
            stop_s=0.0,
        ) as process,
    ):
        assert process.stdout is not None
        port = process.stdout.readline().decode().strip()
        if not port:
            status = process.wait()
            raise LoadError(f"the stub server did not start (exit status {status}){log_tail(log)}")
        yield RunningStub(f"http://127.0.0.1:{port}", process, stub.pieces)


@dataclass
class Stub:
    """A queue with slots of known service time, and its log; all connections share it.

    Attributes:
        service_s: how long a request occupies a slot; 0: requests are answered at once, and not logged.
        parallel: number of slots.
        answer_status: HTTP status of all answers.
        in_step: all slots answer at the same time, as a batch does; else evenly spaced.
        slow_every_s: length of alternating times of normal service and of service SLOWDOWN times as long; 0:
            always normal.
        random: seed of service times that are exponential with mean ``service_s``; 0: they are equal.
        pieces: events of an answer, the first after the service time, the others ``piece_s`` after each other
            whatever else is served; 0: the answer does not stream. Each write has the second half of an event
            and the first half of the next.
        piece_bytes: of content in an event.
    """

    service_s: float
    parallel: int = 1
    answer_status: int = 200
    in_step: bool = False
    slow_every_s: float = 0.0
    random: int = 0
    pieces: int = 0
    piece_s: float = 0.0
    piece_bytes: int = 16

    def __post_init__(self) -> None:
        self.answer = response(self.answer_status, b'{"label": "cat"}')
        self.rng = Random(self.random) if self.random else None
        slots = range(self.parallel)
        self.offsets_s = [0.0 if self.in_step else slot * self.service_s / self.parallel for slot in slots]
        self.free_at: list[float] = []
        self.log: list[tuple[float, ...]] = []
        event = b'data: {"choices": [{"delta": {"content": "%s"}}]}\n\n' % (b"a" * self.piece_bytes)
        text, size = event * self.pieces, len(event)
        cuts = [0, *range(size + size // 2, len(text), size), len(text)]
        self.writes = [chunk(text[begin:end]) for begin, end in itertools.pairwise(cuts)]
        self.writes[0] = STREAM_HEAD + self.writes[0]
        self.writes[-1] += chunk(b"data: [DONE]\n\n") + chunk(b"")

    def finish_time(self, now: float) -> float:
        """When the service of a request that arrives at ``now`` ends: first come, first served.

        A slot becomes free at its scheduled time, not when a late timer fires: the errors of timers, about a
        millisecond, do not add up, and a server that never idles serves ``parallel / service_s``.
        """
        if not self.free_at:  # the first request starts the slots
            self.free_at = [now + offset_s for offset_s in self.offsets_s]
        slow = self.slow_every_s and now % (2 * self.slow_every_s) >= self.slow_every_s
        service_s = self.rng.expovariate(1 / self.service_s) if self.rng else self.service_s
        finish = max(now, self.free_at[0]) + service_s * (SLOWDOWN if slow else 1.0)
        heapq.heapreplace(self.free_at, finish)
        return finish


STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(content: bytes) -> bytes:
    """A chunk of HTTP's chunked encoding; an empty one is the end."""
    return b"%x\r\n%s\r\n" % (len(content), content)


def response(status: int, content: bytes) -> bytes:
    """An HTTP response."""
    return b"HTTP/1.1 %d OK\r\nContent-Length: %d\r\n\r\n%s" % (status, len(content), content)


class _Connection(asyncio.Protocol):
    """A connection that sends one request at a time, with httptools' callbacks."""

    def __init__(self, stub: Stub) -> None:
        self.stub = stub
        self.parser = HttpRequestParser(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_message_begin(self) -> None:
        self.arrived = perf_counter()

    def on_message_complete(self) -> None:
        if self.parser.get_method() == b"GET":
            self.send(response(200, json.dumps(self.stub.log).encode()))
        elif not self.stub.service_s:
            self.send(self.stub.answer)
        else:
            wait_s = self.stub.finish_time(now := perf_counter()) - now
            finish = self.stream if self.stub.pieces else self.finish
            asyncio.get_running_loop().call_later(wait_s, finish, self.arrived)

    def finish(self, arrived: float) -> None:
        self.stub.log.append((arrived, perf_counter()))
        self.send(self.stub.answer)

    def stream(self, arrived: float) -> None:
        begun, stub, sent = perf_counter(), self.stub, list[float]()

        def send_piece() -> None:
            sent.append(perf_counter())
            self.send(stub.writes[len(sent) - 1])
            if len(sent) == stub.pieces:
                stub.log.append((arrived, perf_counter(), *sent))
                return
            due_s = begun + len(sent) * stub.piece_s - perf_counter()
            asyncio.get_running_loop().call_later(max(0.0, due_s), send_piece)

        send_piece()

    def send(self, answer: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(answer)


async def serve(stub: Stub, host: str = "127.0.0.1", port: int = 0) -> None:
    """Serve at ``port`` (0: the kernel chooses) until the process is killed."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Connection(stub), host, port, backlog=BACKLOG)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(Stub(*json.loads(sys.argv[1])), port=int(sys.argv[2]) if sys.argv[2:] else 0))
