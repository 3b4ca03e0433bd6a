"""The address, certificate and API key of a server, and the endpoints that it serves there."""

from __future__ import annotations

import hmac
import os
import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from litmeter.errors import UsageError

KEY_VARIABLE = "LIT_SERVER_API_KEY"
"""Environment variable that holds the key, the same as LitServe's."""
KEY_HEADER = "X-API-Key"
LOG_VARIABLE = "LITMETER_SETUP_LOG"
"""Environment variable with the path of a file for what a LitAPI's ``setup`` raises, which is kept."""
LOOPBACK = "127.0.0.1"
_HEADER_NAME = KEY_HEADER.lower().encode()


def api_key() -> str | None:
    """The key in the environment, None if there is none; raise UsageError if no header can hold it."""
    key = os.environ.get(KEY_VARIABLE, "")
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise UsageError(f"{KEY_VARIABLE}: expected printable ASCII without spaces")
    return key or None


def has_key(headers: Iterable[tuple[bytes, bytes]], key: str) -> bool:
    """Whether a request has the key, compared in constant time.

    Args:
        headers: pairs of a name in lower case and a value.
    """
    given = next((value for name, value in headers if name == _HEADER_NAME), b"")
    return hmac.compare_digest(given, key.encode())


@dataclass(frozen=True)
class Binding:
    """The address of a server, and the endpoints that it serves there."""

    port: int
    host: str = LOOPBACK  # or with an API key 0.0.0.0 or ::, which other machines reach
    certificate: Path | None = None  # PEM file with the certificate chain, for HTTPS; None for HTTP
    certificate_key: Path | None = None  # PEM file with its private key, without a password
    metrics: bool = True  # whether ``/metrics`` is served
    docs: bool = True  # whether ``/openapi.json`` is served

    @property
    def url(self) -> str:
        """The server's URL, without a slash at the end."""
        scheme = "https" if self.certificate else "http"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{scheme}://{host}:{self.port}"

    def check(self) -> None:
        """Raise UsageError if other machines can reach the server and there is no key, or TLS cannot work."""
        if api_key() is None and self.host != LOOPBACK:
            raise UsageError(
                f"--host {self.host}: other machines can reach it, so {KEY_VARIABLE} must hold a key"
            )
        if (self.certificate is None) != (self.certificate_key is None):
            raise UsageError("--certificate and --certificate-key belong together")
        if self.certificate is not None and self.certificate_key is not None:
            _check_certificate(self.certificate, self.certificate_key)


def _check_certificate(certificate: Path, key: Path) -> None:
    try:
        for path in (certificate, key):  # OpenSSL does not say which file is missing
            path.open("rb").close()
        # Without this callback, OpenSSL would ask for a password on the terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password=lambda: b"")
    except (ssl.SSLError, ValueError) as error:
        what = "a certificate and its own key in PEM form, without a password"
        raise UsageError(f"{certificate}, {key}: not {what} ({error})") from error
    except OSError as error:
        raise UsageError(f"{error.filename}: {error.strerror}") from error


def check_ca_file(path: Path) -> None:
    """Raise UsageError unless the file holds certificates of CAs."""
    try:
        ssl.create_default_context(cafile=path)
    except ssl.SSLError as error:
        raise UsageError(f"{path}: no certificates in PEM form ({error})") from error
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
