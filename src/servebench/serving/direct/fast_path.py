"""The fast path: plain requests pass from uvicorn's protocol to the workers, without asyncio task or ASGI.

ASGI and its middleware cost more CPU time than all else that the HTTP process does for a request. All other
requests, and refusals other than 503 for a full server, take the ASGI path.
"""

from __future__ import annotations

import asyncio
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from servebench.serving.direct.admission import FULL, Admission, Admitted
from servebench.serving.direct.dispatcher import CLIENT_CLOSED_REQUEST
from servebench.serving.errors import Reply

if TYPE_CHECKING:
    from uvicorn._types import ASGI3Application

PHRASES = {status.value: status.phrase.encode() for status in HTTPStatus}


class Exchange:
    """An admitted request on the fast path; takes the place of uvicorn's ``RequestResponseCycle``.

    Args:
        began: when its head was complete (monotonic clock, seconds).
    """

    message_event = asyncio.Event()  # set by uvicorn; nothing waits for it
    disconnected = response_started = response_complete = False
    keep_alive = True

    def __init__(self, admitted: Admitted, began: float) -> None:
        self.admitted = admitted
        self.began = began
        self.chunks: list[bytes] = []


class Rejected:
    """A request refused at its head; in the place of uvicorn's cycle, it makes uvicorn skip the body."""

    message_event = asyncio.Event()
    disconnected = False
    response_started = response_complete = True
    keep_alive = True


class FastPathProtocol(HttpToolsProtocol):
    """Uvicorn's protocol, which answers plain ``POST /predict`` itself.

    While the server is full, requests are refused at their head, which leaves most of the CPU time to the
    workers.
    """

    cycle: RequestResponseCycle | Exchange | Rejected | None  # type: ignore[assignment]
    _exchange: Exchange | None = None
    """The admitted request, until it is answered."""
    _running: RequestResponseCycle | None = None
    """The last request that was passed to the app; ``cycle`` may be a pipelined one, which waits for it."""

    def __init__(self, *args: Any, admission: Admission, **options: Any) -> None:
        super().__init__(*args, **options)
        self._admission = admission
        self._dispatcher = admission.dispatcher

    def connection_lost(self, exc: Exception | None) -> None:
        """Abandon the admitted request, as the client has closed the connection."""
        self.end_exchange(CLIENT_CLOSED_REQUEST[0])
        if self._running is not None and not self._running.response_complete:
            self._running.disconnected = True  # uvicorn marks ``cycle`` only
            self._running.message_event.set()
        super().connection_lost(exc)

    def end_exchange(self, status: int) -> None:
        """Give up the admitted request that is not answered yet, if there is one; it counts as ``status``."""
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            self._end(exchange, status)

    def on_headers_complete(self) -> None:
        """Admit, refuse or pass on a request, as its head is complete."""
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
        """Store a part of the body."""
        if self._exchange is not None and self._exchange is self.cycle:
            if self._dispatcher.hold(self._exchange.admitted.slot, len(body)):
                self._exchange.chunks.append(body)
            else:
                self.end_exchange(FULL[0])
                self.cycle = Rejected()
                self.write_json(FULL)
                self.on_response_complete()
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Submit the request to the dispatcher, as its body is complete."""
        exchange = self._exchange
        if exchange is None or exchange is not self.cycle:
            super().on_message_complete()
            return
        chunks, exchange.chunks = exchange.chunks, []
        body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        admitted = exchange.admitted
        self._dispatcher.submit(admitted.slot, admitted.is_image, body, partial(self._respond, exchange))

    def write_json(self, reply: Reply, *, close: bool = False) -> None:
        """Write a complete answer.

        Args:
            close: whether the connection is closed after the answer.
        """
        status, body = reply
        headers = self._admission.response_headers(status, close=close) + self.server_state.default_headers
        lines = b"".join([b"%b: %b\r\n" % header for header in headers])
        self.transport.write(
            b"HTTP/1.1 %d %b\r\n%bcontent-length: %d\r\n\r\n%b"
            % (status, PHRASES[status], lines, len(body), body)
        )

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def _is_plain(self) -> bool:
        """Whether the request needs no more than to read a body of known length and to write an answer."""
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
