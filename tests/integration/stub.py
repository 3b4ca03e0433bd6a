"""A server of known service time and parallelism that logs how long each request was there.

``python -m tests.integration.stub PORT SERVICE_S PARALLEL [STATUS]``; ``GET /log`` answers the log:
pairs of arrival and departure, seconds of the monotonic clock.
"""

from __future__ import annotations

import asyncio
import json
import sys
from time import perf_counter


class Stub:
    def __init__(self, service_s: float, parallel: int, status: int) -> None:
        self.service_s = service_s
        self.places = asyncio.Semaphore(parallel)
        self.status = status
        self.log: list[tuple[float, float]] = []

    async def connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                arrived = perf_counter()
                length = 0
                for line in head.decode("latin-1").split("\r\n"):
                    name, _, value = line.partition(":")
                    if name.lower() == "content-length":
                        length = int(value)
                await reader.readexactly(length)
                if head.startswith(b"GET /log"):
                    content, status = json.dumps(self.log).encode(), 200
                else:
                    async with self.places:
                        await asyncio.sleep(self.service_s)
                    content, status = b'{"label": "cat"}', self.status
                    self.log.append((arrived, perf_counter()))
                writer.write(
                    b"HTTP/1.1 %d OK\r\nContent-Length: %d\r\n\r\n%s" % (status, len(content), content)
                )
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()


async def main() -> None:
    port, service_s, parallel = int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
    status = int(sys.argv[4]) if len(sys.argv) > 4 else 200
    stub = Stub(service_s, parallel, status)
    server = await asyncio.start_server(stub.connection, "127.0.0.1", port, limit=2**22)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
