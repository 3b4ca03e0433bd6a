"""The HTTP process's protocol: uvicorn's, with a fast path, and with limits on how a request arrives."""

from __future__ import annotations

import asyncio
from http import HTTPStatus

from servebench.serving.direct.fast_path import FastPathProtocol
from servebench.serving.errors import reply


class LimitedProtocol(FastPathProtocol):
    """Refuses, as JSON, what is not HTTP, and what would fill memory or hold a connection without end."""

    MAX_HEAD_BYTES = 65_536
    """Of a head, or of anything else between two pieces of the body, that has not come to its end."""
    ARRIVES_WITHIN_S = 20.0
    """From a request's first byte to its last, and from the connection to the first byte."""

    READS_WITHIN_S = 20.0
    """What has been sent, once the connection is to be closed."""

    _head_bytes = 0
    _deadline: asyncio.TimerHandle | None = None
    _head_is_whole = False
    """From the end of a request's head to its last byte: ``cycle`` is that of the request that comes in."""

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
        if self.transport.is_closing():
            return
        if self._head_bytes > self.MAX_HEAD_BYTES:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "the head of the request is too large")
        elif self._deadline is None and self.timeout_keep_alive_task is None and self._is_idle():
            # The body of a request that had been answered before it came.
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def timeout_keep_alive_handler(self) -> None:
        """Nobody has asked anything for a while."""
        if not self.transport.is_closing():
            super().timeout_keep_alive_handler()
            self._end_soon()

    def on_response_complete(self) -> None:
        """A request has been answered."""
        super().on_response_complete()
        if self.transport.is_closing():
            self._end_soon()

    def on_message_begin(self) -> None:
        """A request's first byte."""
        self._expect()
        self._unset_keepalive_if_required()  # an answer to what came just before may have set it
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """A request's head is whole."""
        self._head_bytes = 0
        super().on_headers_complete()
        self._head_is_whole = True

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        self._head_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """A request's last byte."""
        self._head_bytes = 0
        self._head_is_whole = False
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

    def _is_idle(self) -> bool:
        """Whether all requests whose head has come have been answered."""
        return self.cycle is None or self.cycle.response_complete

    def _refuse(self, status: HTTPStatus, reason: str) -> None:
        """Close the connection, and say why, where the next answer on it is that to what comes in."""
        if self._head_is_whole and self.cycle is not None:
            is_next = not (self.cycle.response_started or self.pipeline)
        else:
            is_next = self._is_idle()
        if is_next:
            self.write_json(reply(status, reason), close=True)
        self.transport.close()
        self._end_soon()

    def _end_soon(self) -> None:
        """What is closed stays open until its client has read the answers; do not wait for ever."""
        self._arrived()
        self._deadline = self.loop.call_later(self.READS_WITHIN_S, self.transport.abort)
