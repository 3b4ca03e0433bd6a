"""A server of known service time and parallelism that logs when each request came and went.

``python -m servebench.selftest.stub SERVICE_S PARALLEL STATUS IN_STEP`` prints its port once it listens. Any
POST is a request; ``GET /log`` answers the log so far.
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
from time import perf_counter
from typing import NamedTuple, cast

import numpy as np
import numpy.typing as npt
import requests
import uvloop

from servebench.errors import VerifyError
from servebench.system.processes import log_tail, process_group
from servebench.system.temporary import scratch

CONTENT_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
HEAD_END = b"\r\n\r\n"


class RunningStub(NamedTuple):
    """A stub server that listens."""

    url: str
    pid: int

    def log(self) -> npt.NDArray[np.float64]:
        """Arrival and departure of every request so far, in the order of departure, shape (n, 2).

        Seconds of the machine's monotonic clock, the one that the load generator records by.

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
    service_s: float, parallel: int, answer_status: int = 200, in_step: bool = False
) -> Iterator[RunningStub]:
    """Serve on a free port of 127.0.0.1 until the block is left.

    Args:
        service_s: how long one request occupies one of the places.
        parallel: how many places there are.
        answer_status: the HTTP status of all answers.
        in_step: answers come all at once, as those of a batch do; else evenly spaced.

    Raises:
        VerifyError: the stub ended before it listened.
    """
    arguments = [str(service_s), str(parallel), str(answer_status), str(int(in_step))]
    command = [sys.executable, "-m", "servebench.selftest.stub", *arguments]
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
        yield RunningStub(f"http://127.0.0.1:{port}", process.pid)


class Stub:
    """The places at which requests are served, and the log; shared by all connections."""

    def __init__(self, service_s: float, parallel: int, status: int, in_step: bool) -> None:
        self.service_s = service_s
        self.status = status
        self.opens_s = [0.0 if in_step else place * service_s / parallel for place in range(parallel)]
        self.free_at: list[float] = []
        self.log: list[tuple[float, float]] = []

    def serve_until(self, now: float) -> float:
        """When a request that has come by ``now`` will have been served: first come, first served.

        A place is free again when it was due to be, not when a late timer said so. Timers are good
        to a millisecond; this way their errors do not add up, and the rate of a server that is never
        idle is ``parallel / service_s``.
        """
        if not self.free_at:  # the places open with the first request
            self.free_at = [now + opens_s for opens_s in self.opens_s]
        done = max(now, self.free_at[0]) + self.service_s
        heapq.heapreplace(self.free_at, done)
        return done


class Connection(asyncio.Protocol):
    """One connection, one request at a time."""

    transport: asyncio.Transport

    def __init__(self, stub: Stub) -> None:
        self.stub = stub
        self.received = bytearray()
        self.arrived = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way back."""
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Serve the request once all of it is there; it has arrived with its first byte."""
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
            wait_s = self.stub.serve_until(now) - now
            asyncio.get_running_loop().call_later(wait_s, self.leave, self.arrived)

    def leave(self, arrived: float) -> None:
        """Log the request and answer it."""
        self.stub.log.append((arrived, perf_counter()))
        self.answer(self.stub.status, b'{"label": "cat"}')

    def answer(self, status: int, content: bytes) -> None:
        """Send an answer, unless nobody waits for it any more."""
        if not self.transport.is_closing():
            self.transport.write(
                b"HTTP/1.1 %d OK\r\nContent-Length: %d\r\n\r\n%s" % (status, len(content), content)
            )


async def serve(stub: Stub) -> None:
    """Serve until the process is ended."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(stub), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def main() -> None:
    """Serve as the arguments say."""
    service_s, parallel, status, in_step = sys.argv[1:]
    uvloop.run(serve(Stub(float(service_s), int(parallel), int(status), bool(int(in_step)))))


if __name__ == "__main__":
    main()
