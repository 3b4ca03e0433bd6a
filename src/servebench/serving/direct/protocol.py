"""uvicorn's HTTP protocol with what it has not: limits on how a request arrives, and a cheap refusal."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from servebench.serving.direct.workers import Reply


class LimitedProtocol(HttpToolsProtocol):
    """Refuses, as JSON, what is not HTTP, and what would fill memory or hold a connection without end.

    Args:
        turn_away: the refusal of a ``POST /predict`` whose head has come, None where it may come in. Said
            here, it needs neither a task nor the app: under overload most of the CPU is left to the workers.
    """

    MAX_HEAD_BYTES = 65_536
    """Of a head, or of anything else between two pieces of the body, that has not come to its end."""
    ARRIVES_WITHIN_S = 20.0
    """From a request's first byte to its last, and from the connection to the first byte."""

    _head_bytes = 0
    _deadline: asyncio.TimerHandle | None = None
    _turned_away = False

    def __init__(self, *args: Any, turn_away: Callable[[], Reply | None], **options: Any) -> None:
        super().__init__(*args, **options)
        self._turn_away = turn_away

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
        reply = self._turn_away() if self._could_turn_away() else None
        if reply is None:
            super().on_headers_complete()
        else:
            self._turned_away = True
            self._write(*reply, "retry-after: 1")

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        self._head_bytes = 0
        if not self._turned_away:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """A request's last byte."""
        self._head_bytes = 0
        self._arrived()
        if self._turned_away:
            self._turned_away = False
            self.on_response_complete()
        else:
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

    def _could_turn_away(self) -> bool:
        """Whether all that is to be done for this request is to write, and to skip its body."""
        return (
            self.url == b"/predict"
            and self.parser.get_method() == b"POST"
            and self.parser.should_keep_alive()
            and not self.parser.should_upgrade()
            and not self.expect_100_continue
            and (self.cycle is None or self.cycle.response_complete)
        )

    def _refuse(self, status: HTTPStatus, reason: str) -> None:
        """Answer, unless an answer to this request is under way or out, and close the connection."""
        answered = self.cycle is not None and self.cycle.response_started and not self.cycle.response_complete
        if not (answered or self._turned_away):
            self._write(status, json.dumps({"detail": reason}).encode(), "connection: close")
        self.transport.close()

    def _write(self, status: int, body: bytes, header: str) -> None:
        head = (
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\n{header}\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
