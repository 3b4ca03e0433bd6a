"""An echo server, which answers every request at once: ``python -m servebench.loadgen.echo PORT``.

What the load generator reaches here is its own ceiling. It reads each body to its end and does
nothing else, so that it is never the slower of the two.
"""

from __future__ import annotations

import asyncio
import re
import sys
from typing import cast

import uvloop

CONTENT = b'{"label": "none"}'
RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(CONTENT), CONTENT)
LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


class EchoServer(asyncio.Protocol):
    """One connection, one request after another."""

    def __init__(self) -> None:
        self.head = b""
        self.unread = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way back."""
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Count the body down without keeping it; answer when it is whole."""
        if self.unread:
            self.unread -= len(data)
        else:
            self.head += data
            head, end, rest = self.head.partition(b"\r\n\r\n")
            if not end:
                return
            length = LENGTH.search(head)
            self.unread = (int(length[1]) if length else 0) - len(rest)
            self.head = b""
        if self.unread <= 0:
            self.unread = 0
            self.transport.write(RESPONSE)


async def main(port: int) -> None:
    """Answer on ``port`` of 127.0.0.1 until killed."""
    server = await asyncio.get_running_loop().create_server(EchoServer, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
