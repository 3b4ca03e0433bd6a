"""A server's address, certificate and API key."""

from __future__ import annotations

import hmac
import os
import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from litmeter.errors import UsageError

KEY_VARIABLE = "LIT_SERVER_API_KEY"
"""Environment variable with the API key, as in LitServe."""
KEY_HEADER = "X-API-Key"
KWARGS_VARIABLE = "LITMETER_API_KWARGS"
"""Environment variable with a LitAPI's ``api_kwargs`` (JSON): all users may read a command line."""
LOG_VARIABLE = "LITMETER_SETUP_LOG"
"""Environment variable: path of the file that receives the traceback of a LitAPI's failed ``setup``."""
PATH_FILE = "path"
"""The file in the server's temporary folder with the path of requests, where a LitAPI's spec says it."""
LOOPBACK = "127.0.0.1"
_HEADER_NAME = KEY_HEADER.lower().encode()


def api_key() -> str | None:
    """The API key from the environment, if any; raise UsageError for a key that no header can hold."""
    key = os.environ.get(KEY_VARIABLE, "")
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise UsageError(f"{KEY_VARIABLE}: expected printable ASCII without spaces")
    return key or None


def has_key(headers: Iterable[tuple[bytes, bytes]], key: str) -> bool:
    """Whether ``headers`` (lower-case names) have the key; compared in constant time."""
    given = next((value for name, value in headers if name == _HEADER_NAME), b"")
    return hmac.compare_digest(given, key.encode())


@dataclass(frozen=True)
class Binding:
    """A server's address, and its optional endpoints."""

    port: int
    host: str = LOOPBACK  # 0.0.0.0 and ::, which other machines can reach, need an API key
    certificate: Path | None = None  # PEM file with the certificate chain, for HTTPS; None: HTTP
    certificate_key: Path | None = None  # PEM file with the private key, without a password
    metrics: bool = True  # serve ``/metrics``
    docs: bool = True  # serve ``/openapi.json``, and a LitAPI's ``/docs`` and ``/redoc``

    @property
    def url(self) -> str:
        """The server's URL, without a trailing slash."""
        scheme = "https" if self.certificate else "http"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{scheme}://{host}:{self.port}"

    def check(self) -> None:
        """Raise UsageError for a public address without an API key, or for unusable certificate files."""
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
        what = "a certificate and its private key in PEM form, without a password"
        raise UsageError(f"{certificate}, {key}: not {what} ({error})") from error
    except OSError as error:
        raise UsageError(f"{error.filename}: {error.strerror}") from error


def check_ca_file(path: Path) -> None:
    """Raise UsageError unless the file holds CA certificates."""
    try:
        ssl.create_default_context(cafile=path)
    except ssl.SSLError as error:
        raise UsageError(f"{path}: no certificates in PEM form ({error})") from error
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
