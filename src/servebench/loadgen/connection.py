"""One user's connection: the requests are ready as bytes, the answers are parsed by llhttp.

Locust's own FastHttpUser takes three times the CPU for each request (it builds every request anew and keeps
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


def post_request(url: str, headers: Mapping[str, str], body: bytes) -> bytes:
    """A whole ``POST`` as it goes over the wire."""
    parts = urlsplit(url)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    own = {"Host": parts.netloc.rpartition("@")[2], "Accept": "*/*", "Content-Length": str(len(body))}
    lines = [f"POST {target} HTTP/1.1", *(f"{name}: {value}" for name, value in {**own, **headers}.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


class ResponseParser(HTTPResponse):
    """A response as it comes in."""

    def __init__(self) -> None:
        super().__init__("POST")
        self.content = b""

    def _on_body(self, data: bytearray) -> None:
        self.content += data


class Connection:
    """Kept open from request to request.

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
        self._used = 0.0

    def send(self, request: bytes) -> tuple[int, bytes]:
        """Status and body of the response; status 0 where none came, or none in time."""
        try:
            with gevent.Timeout(self._timeout_s):
                return self._exchange(request)
        except (OSError, HTTPParseError, gevent.Timeout):
            self.close()
            return 0, b""

    def close(self) -> None:
        """Close what is open; the next request opens it anew."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _exchange(self, request: bytes) -> tuple[int, bytes]:
        if perf_counter() - self._used > IDLE_S:
            self.close()
        if self._socket is None:
            self._socket = self._open()
        # A server may refuse a request before it has read all of it, and close: its response is there.
        with suppress(BrokenPipeError, ConnectionResetError):
            self._socket.sendall(request)
        response = ResponseParser()
        while not response.message_complete or response.get_code() < 200:
            data = self._socket.recv(READ_BYTES)
            response.feed(data)
            if not data and not response.message_complete:
                raise ConnectionResetError("closed before the response was whole")
        if response.should_close():
            self.close()
        self._used = perf_counter()
        return response.get_code(), response.content

    def _open(self) -> gevent.socket.socket:
        opened = gevent.socket.create_connection((self._host, self._port))
        opened.setsockopt(gevent.socket.IPPROTO_TCP, gevent.socket.TCP_NODELAY, 1)
        return self._tls.wrap_socket(opened, server_hostname=self._host) if self._tls else opened
