"""HTTP connection of one user: requests are prepared as bytes, responses are parsed by llhttp.

Locust's own FastHttpUser takes three times the CPU per request (it builds every request anew and keeps
statistics of it), on the same cores as the server that is measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from time import perf_counter
from urllib.parse import urlsplit

import gevent
import gevent.socket
import gevent.ssl
from geventhttpclient.response import HTTPParseError, HTTPResponse

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


class ResponseParser(HTTPResponse):
    """Parses a response as it is received, and collects its body."""

    def __init__(self) -> None:
        super().__init__("POST")
        self.content = b""

    def _on_body(self, data: bytearray) -> None:
        self.content += data


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
        self._last_used = 0.0

    def send(self, request: bytes) -> tuple[int, bytes]:
        """Send a request; return status and body of the response, status 0 after an error or a timeout."""
        try:
            with gevent.Timeout(self._timeout_s):
                return self._exchange(request)
        except (OSError, HTTPParseError, gevent.Timeout):
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
        # A server may answer before it has read the whole request, and close: the response can be read.
        with suppress(BrokenPipeError, ConnectionResetError):
            self._socket.sendall(request)
        response = ResponseParser()
        while not response.message_complete or response.get_code() < 200:
            data = self._socket.recv(READ_BYTES)
            response.feed(data)
            if not data and not response.message_complete:
                raise ConnectionResetError("closed before the response was complete")
        if response.should_close():
            self.close()
        self._last_used = perf_counter()
        return response.get_code(), response.content

    def _open(self) -> gevent.socket.socket:
        opened = gevent.socket.create_connection((self._host, self._port))
        opened.setsockopt(gevent.socket.IPPROTO_TCP, gevent.socket.TCP_NODELAY, 1)
        return self._tls.wrap_socket(opened, server_hostname=self._host) if self._tls else opened
