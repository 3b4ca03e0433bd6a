"""The fast path of plain requests: from the socket to the workers and back, with neither a task nor the app.

What lies between, uvicorn's ASGI and the middleware, costs more than all else that the HTTP process does
for a request. Whatever is unusual, or is refused for what it is, goes that way.
"""

from __future__ import annotations

import asyncio
from functools import partial
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from servebench.serving.direct.admission import FULL, Admission, Admitted
from servebench.serving.direct.dispatcher import CLIENT_GONE
from servebench.serving.errors import Reply

PHRASES = {status.value: status.phrase.encode() for status in HTTPStatus}


class Exchange:
    """A plain request and its answer; stands where uvicorn keeps its ``RequestResponseCycle``.

    Args:
        began: when the request came, seconds of the monotonic clock.
    """

    message_event = asyncio.Event()  # uvicorn sets it, nobody waits for it
    disconnected = response_started = response_complete = False
    keep_alive = True

    def __init__(self, admitted: Admitted, began: float) -> None:
        self.admitted = admitted
        self.began = began
        self.chunks: list[bytes] = []


class Rejected:
    """A request that was answered when its head had come: uvicorn skips its body."""

    message_event = asyncio.Event()
    disconnected = False
    response_started = response_complete = True
    keep_alive = True


class FastPathProtocol(HttpToolsProtocol):
    """uvicorn's protocol, which answers a plain ``POST /predict`` itself.

    While the server is full it is refused when its head has come: under overload most of the CPU is left
    to the workers.
    """

    cycle: RequestResponseCycle | Exchange | Rejected | None  # type: ignore[assignment]
    _exchange: Exchange | None = None
    """The request that has been admitted to the fast path, until it is answered."""

    def __init__(self, *args: Any, admission: Admission, **options: Any) -> None:
        super().__init__(*args, **options)
        self._admission = admission
        self._dispatcher = admission.dispatcher

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone; no worker works for it."""
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            self._end(exchange, CLIENT_GONE[0])
        super().connection_lost(exc)

    def on_headers_complete(self) -> None:
        """A request's head is whole."""
        if not self._is_plain():
            super().on_headers_complete()
            return
        decision = self._admission.decide(self.headers)
        if isinstance(decision, Admitted):
            self.cycle = self._exchange = Exchange(decision, self._admission.begin())
        elif decision is FULL:
            self.cycle = Rejected()
            self._reject(decision)
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
        admitted = exchange.admitted
        self._dispatcher.submit(admitted.slot, admitted.is_image, body, partial(self._respond, exchange))

    def write_json(self, reply: Reply, *, close: bool = False) -> None:
        """Send a whole answer.

        Args:
            close: the connection cannot be used again.
        """
        status, body = reply
        headers = self._admission.response_headers(status, close=close) + self.server_state.default_headers
        lines = b"".join([b"%b: %b\r\n" % header for header in headers])
        self.transport.write(
            b"HTTP/1.1 %d %b\r\n%bcontent-length: %d\r\n\r\n%b"
            % (status, PHRASES[status], lines, len(body), body)
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
            and any(name == b"content-length" for name, _ in self.headers)
        )

    def _reject(self, reply: Reply) -> None:
        self._admission.end(reply[0], self._admission.begin())
        self.write_json(reply)
        self.on_response_complete()

    def _respond(self, exchange: Exchange, reply: Reply) -> None:
        self._exchange = None
        self._end(exchange, reply[0])
        if self.transport.is_closing():
            return
        close = self._dispatcher.stopping or not exchange.keep_alive
        self.write_json(reply, close=close)
        if close:
            self.transport.close()
        self.on_response_complete()

    def _end(self, exchange: Exchange, status: int) -> None:
        exchange.response_started = exchange.response_complete = True
        self._dispatcher.release(exchange.admitted.slot)
        self._admission.end(status, exchange.began)
