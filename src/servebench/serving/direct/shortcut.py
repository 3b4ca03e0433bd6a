"""The shortcut of plain requests: from the socket to the workers and back, with neither a task nor the app.

What lies between, uvicorn's ASGI and the middleware, costs more than all else that the HTTP process does
for a request. Whatever is unusual, or is refused for what it is, goes that way.
"""

from __future__ import annotations

import asyncio
from functools import partial
from http import HTTPStatus
from time import perf_counter
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from servebench.serving.bodies import BodyError, check_head
from servebench.serving.direct.dispatcher import GONE, Dispatcher
from servebench.serving.direct.workers import Reply
from servebench.serving.key import has_key
from servebench.serving.metrics import RequestTimer

PHRASES = {status.value: status.phrase.encode() for status in HTTPStatus}
RETRY = b"retry-after: 1\r\n"


class Exchange:
    """A plain request and its answer; stands where uvicorn keeps its ``RequestResponseCycle``.

    Args:
        ticket: its place among the requests under way.
        is_image: the body is an image file; else it is JSON.
    """

    message_event = asyncio.Event()  # uvicorn sets it, nobody waits for it
    disconnected = response_started = response_complete = False
    keep_alive = True

    def __init__(self, ticket: int, is_image: bool) -> None:
        self.ticket = ticket
        self.is_image = is_image
        self.began = perf_counter()
        self.chunks: list[bytes] = []


class TurnedAway:
    """A request that was answered when its head had come: uvicorn skips its body."""

    message_event = asyncio.Event()
    disconnected = False
    response_started = response_complete = True
    keep_alive = True


class ShortcutProtocol(HttpToolsProtocol):
    """uvicorn's protocol, which answers a plain ``POST /predict`` itself.

    While the server is full it is refused when its head has come: under overload most of the CPU is left
    to the workers.

    Args:
        max_bytes: of a body.
        key: what requests must bring, if anything.
        timed: count requests in the metrics.
    """

    cycle: RequestResponseCycle | Exchange | TurnedAway | None  # type: ignore[assignment]
    _exchange: Exchange | None = None
    """The request that has been admitted to the shortcut, until it is answered."""

    def __init__(
        self,
        *args: Any,
        dispatcher: Dispatcher,
        max_bytes: int,
        key: str | None,
        timed: bool,
        **options: Any,
    ) -> None:
        super().__init__(*args, **options)
        self._dispatcher = dispatcher
        self._max_bytes = max_bytes
        self._key = key
        self._timed = timed

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone; no worker works for it."""
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            self._end(exchange, GONE[0])
        super().connection_lost(exc)

    def on_headers_complete(self) -> None:
        """A request's head is whole."""
        if not self._is_plain():
            super().on_headers_complete()
        elif (reply := self._dispatcher.turn_away()) is not None:
            self.cycle = TurnedAway()
            self._turn_away(reply)
        elif (exchange := self._admitted()) is not None:
            self.cycle = self._exchange = exchange
        else:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        if self._exchange is not None and self._exchange is self.cycle:
            self._exchange.chunks.append(body)
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """A request's last byte."""
        exchange = self._exchange
        if exchange is None or exchange is not self.cycle:
            super().on_message_complete()
            return
        chunks, exchange.chunks = exchange.chunks, []
        body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        self._dispatcher.submit(exchange.ticket, exchange.is_image, body, partial(self._answer, exchange))

    def write_json(self, status: int, body: bytes, headers: bytes = b"") -> None:
        """Send a whole answer.

        Args:
            headers: besides the usual ones, each with its end of line.
        """
        for name, value in self.server_state.default_headers:
            headers += b"%b: %b\r\n" % (name, value)
        self.transport.write(
            b"HTTP/1.1 %d %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n%b\r\n%b"
            % (status, PHRASES[status], len(body), headers, body)
        )

    def _is_plain(self) -> bool:
        """Whether all that is to be done for this request is to read a body and to write an answer."""
        return (
            self.url == b"/predict"
            and self.parser.get_method() == b"POST"
            and self.parser.get_http_version() == "1.1"
            and self.parser.should_keep_alive()
            and not self.parser.should_upgrade()
            and not self.expect_100_continue
            and not self.flow.write_paused
            and (self.cycle is None or self.cycle.response_complete)
        )

    def _turn_away(self, reply: Reply) -> None:
        if self._timed:
            RequestTimer.begin()
            RequestTimer.end(reply[0], perf_counter())
        self.write_json(*reply, RETRY)
        self.on_response_complete()

    def _admitted(self) -> Exchange | None:
        """What there is to be answered here; None where the app shall say what is wrong."""
        headers = dict(self.headers)
        if b"content-length" not in headers or not (self._key is None or has_key(self.headers, self._key)):
            return None
        try:
            is_image = check_head(headers, self._max_bytes)
        except BodyError:
            return None
        ticket = self._dispatcher.admit()
        if ticket is None:
            return None
        if self._timed:
            RequestTimer.begin()
        return Exchange(ticket, is_image)

    def _answer(self, exchange: Exchange, reply: Reply) -> None:
        self._exchange = None
        self._end(exchange, reply[0])
        if self.transport.is_closing():
            return
        stays = exchange.keep_alive and not self._dispatcher.stopping
        headers = RETRY if reply[0] == 503 else b""
        self.write_json(*reply, headers if stays else headers + b"connection: close\r\n")
        if not stays:
            self.transport.close()
        self.on_response_complete()

    def _end(self, exchange: Exchange, status: int) -> None:
        exchange.response_started = exchange.response_complete = True
        self._dispatcher.release(exchange.ticket)
        if self._timed:
            RequestTimer.end(status, exchange.began)
