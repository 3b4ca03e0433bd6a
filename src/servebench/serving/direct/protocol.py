"""uvicorn's HTTP protocol with the limits that it has not: on a request's head, and on its time to arrive."""

from __future__ import annotations

import asyncio
import json
from http import HTTPStatus

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class LimitedProtocol(HttpToolsProtocol):
    """Refuses, as JSON, what is not HTTP, and what would fill memory or hold a connection without end."""

    MAX_HEAD_BYTES = 65_536
    """Of a head, or of anything else between two pieces of the body, that has not come to its end."""
    ARRIVES_WITHIN_S = 20.0
    """From a request's first byte to its last, and from the connection to the first byte."""

    _head_bytes = 0
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected."""
        super().connection_made(transport)
        self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone."""
        self._arrived()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what a client has sent; the callbacks below say what it was."""
        self._head_bytes += len(data)
        super().data_received(data)
        if self._head_bytes > self.MAX_HEAD_BYTES and not self.transport.is_closing():
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "the head of the request is too large")

    def on_message_begin(self) -> None:
        """A request's first byte."""
        self._expect()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """A request's head is whole."""
        self._head_bytes = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        self._head_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """A request's last byte."""
        self._head_bytes = 0
        self._arrived()
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is not HTTP."""
        self._refuse(HTTPStatus.BAD_REQUEST, msg)

    def _expect(self) -> None:
        self._arrived()
        self._deadline = self.loop.call_later(self.ARRIVES_WITHIN_S, self._too_slow)

    def _arrived(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_slow(self) -> None:
        if not self.transport.is_closing():
            reason = f"the request did not arrive within {self.ARRIVES_WITHIN_S:g} s"
            self._refuse(HTTPStatus.REQUEST_TIMEOUT, reason)

    def _refuse(self, status: HTTPStatus, reason: str) -> None:
        """Answer, unless an answer to this connection is under way, and close the connection."""
        if self.cycle is None or not self.cycle.response_started or self.cycle.response_complete:
            body = json.dumps({"detail": reason})
            self.transport.write(
                f"HTTP/1.1 {status.value} {status.phrase}\r\ncontent-type: application/json\r\n"
                f"content-length: {len(body)}\r\nconnection: close\r\n\r\n{body}".encode()
            )
        self.transport.close()
