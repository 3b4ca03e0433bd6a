"""HTTP connection of one user: requests are prepared as bytes, responses are parsed by llhttp.

It shares cores with the server that is measured, so a request costs as little CPU time as can be.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from time import perf_counter
from urllib.parse import urlsplit

import gevent
import gevent.socket
import gevent.ssl
from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

IDLE_S = 1.0
"""A connection that has been idle for longer is opened anew: the server may have closed it."""
READ_BYTES = 65_536


def post_head(url: str, headers: Mapping[str, str], body_bytes: int) -> bytes:
    """The head of a ``POST`` request whose body has ``body_bytes``."""
    parts = urlsplit(url)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    defaults = {"Host": parts.netloc.rpartition("@")[2], "Accept": "*/*", "Content-Length": str(body_bytes)}
    fields = [f"{name}: {value}" for name, value in {**defaults, **headers}.items()]
    return "\r\n".join([f"POST {target} HTTP/1.1", *fields, "", ""]).encode("latin-1")


class Responses:
    """The responses of one TCP connection, one after another; most methods are httptools' callbacks.

    Attributes:
        content: body of the present response.
        complete: the whole of it has been received, after any 1xx.
        closes: the server closes the connection after it.
    """

    def __init__(self) -> None:
        self.parser = HttpResponseParser(self)
        self.begin()

    def begin(self) -> None:
        """Expect the next response."""
        self.content = b""
        self.complete = self.closes = False
        self._head_ended = self._says_its_end = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Note whether a header says where the body ends."""
        self._says_its_end |= name.lower() in (b"content-length", b"transfer-encoding")

    def on_headers_complete(self) -> None:
        """Note the end of the head."""
        self._head_ended = True

    def on_body(self, data: bytes) -> None:
        """Keep a part of the body."""
        self.content += data

    def on_message_complete(self) -> None:
        """Note the end, unless of a 1xx, which the answer follows."""
        self.complete = self.parser.get_status_code() >= 200
        self._head_ended = self.complete
        self.closes = not self.parser.should_keep_alive()

    def end(self) -> None:
        """The connection has been closed, which ends a body without a length.

        Raises:
            ConnectionResetError: the response is cut off.
        """
        if not self._head_ended or self._says_its_end:
            raise ConnectionResetError("closed before the response was complete")
        self.complete = self.closes = True


class Connection:
    """A keep-alive connection, opened anew where it was closed.

    Args:
        timeout_s: of one request, from connecting to the end of the response.
    """

    def __init__(self, url: str, timeout_s: float) -> None:
        parts = urlsplit(url)
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._tls = None
        if parts.scheme == "https":
            self._tls = gevent.ssl.SSLContext(gevent.ssl.PROTOCOL_TLS_CLIENT)
            self._tls.load_default_certs()
        self._timeout_s = timeout_s
        self._socket: gevent.socket.socket | None = None
        self._response = Responses()
        self._last_used = 0.0

    def send(self, request: bytes) -> tuple[int, bytes]:
        """Send a request; return status and body of the response, status 0 after an error or a timeout."""
        try:
            with gevent.Timeout(self._timeout_s):
                return self._exchange(request)
        except (OSError, HttpParserError, HttpParserUpgrade, gevent.Timeout):
            self.close()
            return 0, b""

    def close(self) -> None:
        """Close the connection, if it is open; the next request opens it anew."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _exchange(self, request: bytes) -> tuple[int, bytes]:
        if perf_counter() - self._last_used > IDLE_S:
            self.close()
        if self._socket is None:
            self._socket = self._open()
            self._response = Responses()
        # A server may answer before it has read the whole request, and close: the response can be read.
        with suppress(BrokenPipeError, ConnectionResetError):
            self._socket.sendall(request)
        response = self._response
        response.begin()
        while not response.complete:
            if data := self._socket.recv(READ_BYTES):
                response.parser.feed_data(data)
            else:
                response.end()
        if response.closes:
            self.close()
        self._last_used = perf_counter()
        return response.parser.get_status_code(), response.content

    def _open(self) -> gevent.socket.socket:
        opened = gevent.socket.create_connection((self._host, self._port))
        opened.setsockopt(gevent.socket.IPPROTO_TCP, gevent.socket.TCP_NODELAY, 1)
        return self._tls.wrap_socket(opened, server_hostname=self._host) if self._tls else opened
