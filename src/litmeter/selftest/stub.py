"""A stub server of known service time and parallelism that logs arrival and departure of each request.

``python -m litmeter.selftest.stub SERVICE_S PARALLEL STATUS IN_STEP SLOW_EVERY_S RANDOM`` prints its port
once it listens. Any POST is a request; ``GET /log`` answers with the log so far.
"""

from __future__ import annotations

import asyncio
import heapq
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random
from time import perf_counter
from typing import NamedTuple, cast

import numpy as np
import numpy.typing as npt
import requests
import uvloop

from litmeter.errors import VerifyError
from litmeter.system.processes import log_tail, process_group
from litmeter.system.temporary import scratch

CONTENT_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
HEAD_END = b"\r\n\r\n"
SLOWDOWN = 1.4
"""As far as the speeds of real machines were seen to lie apart within minutes."""
BACKLOG = 1024
"""Connections that are accepted while the process is stopped."""
BODY = b'{"image": "%s"}' % (b"A" * 45_000)
"""What the stub is sent: as large as a photograph of the data set in base64."""


class RunningStub(NamedTuple):
    """A stub server that is listening."""

    url: str
    process: subprocess.Popen[bytes]

    @property
    def pid(self) -> int:
        """Of its process."""
        return self.process.pid

    def log(self) -> npt.NDArray[np.float64]:
        """Arrival and departure of every request so far, in the order of departure, shape (n, 2).

        Times are seconds of the machine's monotonic clock, which the load generator uses as well.

        Raises:
            VerifyError: the stub does not answer.
        """
        try:
            answer = requests.get(f"{self.url}/log", timeout=30)
        except requests.RequestException as error:
            raise VerifyError(f"the stub server does not answer ({type(error).__name__})") from error
        return np.array(answer.json(), dtype=np.float64).reshape(-1, 2)


@contextmanager
def running_stub(
    service_s: float,
    parallel: int,
    answer_status: int = 200,
    in_step: bool = False,
    slow_every_s: float = 0.0,
    random: bool = False,
) -> Iterator[RunningStub]:
    """Run a stub server on a free port of 127.0.0.1 until the block is left.

    Args:
        service_s: how long a request occupies one of the slots.
        parallel: number of slots.
        answer_status: the HTTP status of all answers.
        in_step: all slots answer at the same time, as a batch does; else evenly spaced.
        slow_every_s: every other time of this length, all stubs' service takes SLOWDOWN times as long; 0 for
            never.
        random: times of service are exponential, with a mean of ``service_s``; else all are equal.

    Raises:
        VerifyError: the stub ended before it listened.
    """
    arguments = [
        str(service_s),
        str(parallel),
        str(answer_status),
        str(int(in_step)),
        str(slow_every_s),
        str(int(random)),
    ]
    command = [sys.executable, "-m", "litmeter.selftest.stub", *arguments]
    with (
        scratch() as folder,
        (log := folder / "log").open("wb") as stderr,
        process_group(command, stdout=subprocess.PIPE, stderr=stderr) as process,
    ):
        assert process.stdout is not None
        port = process.stdout.readline().decode().strip()
        if not port:
            status = process.wait()
            raise VerifyError(f"the stub server did not start (exit status {status}){log_tail(log)}")
        yield RunningStub(f"http://127.0.0.1:{port}", process)


class Stub:
    """A queue with ``parallel`` slots of known service time, and the log; shared by all connections."""

    def __init__(
        self, service_s: float, parallel: int, status: int, in_step: bool, slow_every_s: float, random: bool
    ) -> None:
        self.service_s = service_s
        self.slow_every_s = slow_every_s
        self.status = status
        self.rng = Random(0) if random else None
        self.offsets_s = [0.0 if in_step else slot * service_s / parallel for slot in range(parallel)]
        self.free_at: list[float] = []
        self.log: list[tuple[float, float]] = []

    def finish_time(self, now: float) -> float:
        """When the service of a request that arrives at ``now`` ends: first come, first served.

        A slot is free again at its scheduled time, not when a late timer fires. So the errors of timers,
        about a millisecond, do not add up, and a server that never idles serves ``parallel / service_s``.
        """
        if not self.free_at:  # the first request starts the slots
            self.free_at = [now + offset_s for offset_s in self.offsets_s]
        slow = self.slow_every_s and now % (2 * self.slow_every_s) >= self.slow_every_s
        service_s = self.rng.expovariate(1 / self.service_s) if self.rng else self.service_s
        finish = max(now, self.free_at[0]) + service_s * (SLOWDOWN if slow else 1.0)
        heapq.heapreplace(self.free_at, finish)
        return finish


class Connection(asyncio.Protocol):
    """One connection, which sends one request at a time."""

    transport: asyncio.Transport

    def __init__(self, stub: Stub) -> None:
        self.stub = stub
        self.received = bytearray()
        self.arrived = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Store the transport, on which responses are sent."""
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Serve the request once it is complete; its arrival is that of its first byte."""
        now = perf_counter()
        if not self.received:
            self.arrived = now
        self.received += data
        head_bytes = self.received.find(HEAD_END) + len(HEAD_END)
        if head_bytes < len(HEAD_END):
            return
        length = CONTENT_LENGTH.search(self.received, 0, head_bytes)
        if len(self.received) < head_bytes + (int(length[1]) if length else 0):
            return
        wants_log = self.received.startswith(b"GET /log")
        self.received.clear()
        if wants_log:
            self.answer(200, json.dumps(self.stub.log).encode())
        else:
            wait_s = self.stub.finish_time(now) - now
            asyncio.get_running_loop().call_later(wait_s, self.finish, self.arrived)

    def finish(self, arrived: float) -> None:
        """Log the request and answer it."""
        self.stub.log.append((arrived, perf_counter()))
        self.answer(self.stub.status, b'{"label": "cat"}')

    def answer(self, status: int, content: bytes) -> None:
        """Send an answer, unless the client has closed the connection."""
        if not self.transport.is_closing():
            self.transport.write(
                b"HTTP/1.1 %d OK\r\nContent-Length: %d\r\n\r\n%s" % (status, len(content), content)
            )


async def serve(stub: Stub) -> None:
    """Serve until the process is killed."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(stub), "127.0.0.1", 0, backlog=BACKLOG)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def main() -> None:
    """Serve with the parameters of the command line."""
    service_s, parallel, status, in_step, slow_every_s, random = sys.argv[1:]
    stub = Stub(
        float(service_s),
        int(parallel),
        int(status),
        bool(int(in_step)),
        float(slow_every_s),
        bool(int(random)),
    )
    uvloop.run(serve(stub))


if __name__ == "__main__":
    main()
