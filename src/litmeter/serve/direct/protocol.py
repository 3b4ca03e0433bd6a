"""The HTTP process's protocol: uvicorn's, with limits on how a request arrives, and cheap refusals.

Under overload most of the CPU time would go to requests that are refused: ASGI and its middleware cost more
than all else that the HTTP process does for a request. So a full server answers 503 at their head, here.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from litmeter.serve.direct.route import FULL, REFUSED_STATUS, Admission
from litmeter.serve.errors import Reply, error_reply

if TYPE_CHECKING:
    from uvicorn._types import ASGI3Application

PHRASES = {status.value: status.phrase.encode() for status in HTTPStatus}


class Refused:
    """A request refused at its head; in the place of uvicorn's cycle, it makes uvicorn skip the body."""

    message_event = asyncio.Event()  # set by uvicorn; nothing waits for it
    disconnected = False
    response_started = response_complete = True
    keep_alive = True


class LimitedProtocol(HttpToolsProtocol):
    """Refuses, as JSON, malformed HTTP, heads that are too large, and requests that arrive too slowly.

    While the server is full, it refuses all plain ``POST /predict``.
    """

    cycle: RequestResponseCycle | Refused | None  # type: ignore[assignment]
    _running: RequestResponseCycle | None = None
    """The last request that was passed to the app; ``cycle`` may be a pipelined one, which waits for it."""

    MAX_HEAD_BYTES = 65_536
    """Maximum size of a head, and of what is received between two parts of a body."""
    REQUEST_TIMEOUT_S = 20.0
    """Time from a request's first byte to its last, and from the connection to the first byte."""
    CLOSE_TIMEOUT_S = 20.0
    """Time for a client to read its answers once its connection is being closed."""

    _head_bytes = 0
    _deadline: asyncio.TimerHandle | None = None
    _head_complete = False
    """Whether ``cycle`` is that of the request being received: from the end of its head to its last byte."""

    def __init__(self, *args: Any, admission: Admission, **options: Any) -> None:
        super().__init__(*args, **options)
        self._admission = admission

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the timeout of the first request."""
        super().connection_made(transport)
        self._start_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the timeout, and tell the app that the client has gone."""
        self._cancel_deadline()
        if self._running is not None and not self._running.response_complete:
            self._running.disconnected = True  # uvicorn marks ``cycle`` only
            self._running.message_event.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse data, which calls the callbacks below; refuse a head that is too large."""
        self._head_bytes += len(data)
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._head_bytes > self.MAX_HEAD_BYTES:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "the head of the request is too large")
        elif self._deadline is None and self.timeout_keep_alive_task is None and self._is_idle():
            # Uvicorn sets no timeout after the body of a request that was answered before its end.
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection."""
        if not self.transport.is_closing():
            super().timeout_keep_alive_handler()
            self._abort_later()

    def on_response_complete(self) -> None:
        """Limit the time for which a closing connection stays open."""
        super().on_response_complete()
        if self.transport.is_closing():
            self._abort_later()

    def on_message_begin(self) -> None:
        """Start the timeout of a request at its first byte."""
        self._start_deadline()
        self._unset_keepalive_if_required()  # set by an answer to the previous request
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Pass a request to the app, or refuse it, as its head is complete."""
        self._head_bytes = 0
        if self._admission.dispatcher.full and self._is_plain():
            self.cycle = Refused()
            self._admission.end(FULL[0], self._admission.begin())
            self._write(FULL)
            self.on_response_complete()
        else:
            super().on_headers_complete()
        self._head_complete = True

    def on_body(self, body: bytes) -> None:
        """Reset the size of what is received between two parts of the body."""
        self._head_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Cancel the timeout at a request's last byte."""
        self._head_bytes = 0
        self._head_complete = False
        self._cancel_deadline()
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse malformed HTTP."""
        self._refuse(HTTPStatus.BAD_REQUEST, msg)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def _is_plain(self) -> bool:
        """Whether the request is a ``POST /predict`` whose body, of known length, uvicorn can skip."""
        return (
            self.url == b"/predict"
            and self.parser.get_method() == b"POST"
            and self.parser.get_http_version() == "1.1"
            and self.parser.should_keep_alive()
            and not self.parser.should_upgrade()
            and not self.expect_100_continue
            and not self.flow.write_paused
            and not self._admission.dispatcher.stopping
            and self._is_idle()
            and any(name == b"content-length" for name, _ in self.headers)
        )

    def _write(self, reply: Reply, *, close: bool = False) -> None:
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

    def _start_deadline(self) -> None:
        self._cancel_deadline()
        self._deadline = self.loop.call_later(self.REQUEST_TIMEOUT_S, self._on_request_timeout)

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _on_request_timeout(self) -> None:
        if not self.transport.is_closing():
            reason = f"the request did not arrive within {self.REQUEST_TIMEOUT_S:g} s"
            self._refuse(HTTPStatus.REQUEST_TIMEOUT, reason)

    def _is_idle(self) -> bool:
        """Whether all requests with a complete head have been answered."""
        return self.cycle is None or self.cycle.response_complete

    def _refuse(self, status: HTTPStatus, reason: str) -> None:
        """Close the connection; give the reason only if all earlier requests on it have been answered."""
        if self._head_complete and self.cycle is not None:
            is_next = not (self.cycle.response_started or self.pipeline)
        else:
            is_next = self._is_idle()
        if is_next:
            self._write(error_reply(status, reason), close=True)
            if self._head_complete:  # the app has it, and counts it
                cast("dict[str, Any]", self.scope)[REFUSED_STATUS] = status.value
        self.transport.close()
        self._abort_later()

    def _abort_later(self) -> None:
        """Abort a closing connection after a time: it stays open until the client has read all answers."""
        self._cancel_deadline()
        self._deadline = self.loop.call_later(self.CLOSE_TIMEOUT_S, self.transport.abort)
