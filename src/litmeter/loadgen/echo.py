"""An echo server, which answers every request at once: ``python -m litmeter.loadgen.echo PORT``.

It reads each body to its end and answers with a constant, so that it is faster than the load
generator: the rate measured against it is the load generator's own limit.
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
    """One connection, which sends one request after another.

    Attributes:
        head: the request's head, as far as it has been received.
        unread: bytes of the request's body that are still to come.
    """

    def __init__(self) -> None:
        self.head = b""
        self.unread = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Store the transport, on which responses are sent."""
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Count the body's bytes without storing them; answer at its end."""
        if self.unread:
            self.unread -= len(data)
        else:
            self.head += data
            head, separator, body = self.head.partition(b"\r\n\r\n")
            if not separator:
                return
            length = LENGTH.search(head)
            self.unread = (int(length[1]) if length else 0) - len(body)
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
