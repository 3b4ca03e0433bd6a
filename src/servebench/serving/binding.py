"""What the server is bound to: address, certificate, and which of its pages are open."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from servebench.errors import UsageError
from servebench.serving.auth import KEY_VARIABLE, api_key

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Binding:
    """Where a server listens, and what it serves there.

    Attributes:
        host: where it listens: 127.0.0.1, or what others can reach with an API key, 0.0.0.0 or ::.
        certificate: PEM file with the chain; HTTPS instead of HTTP.
        certificate_key: PEM file with the certificate's private key, without a password.
        metrics: with ``/metrics``.
        docs: with ``/docs``, ``/redoc`` and ``/openapi.json``.
    """

    port: int
    host: str = LOOPBACK
    certificate: Path | None = None
    certificate_key: Path | None = None
    metrics: bool = True
    docs: bool = True

    @property
    def url(self) -> str:
        """Without a slash at its end."""
        scheme = "https" if self.certificate else "http"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{scheme}://{host}:{self.port}"

    def arguments(self) -> list[str]:
        """The same for the command line of ``python -m servebench.serving``."""
        return [
            *("--host", self.host, "--port", str(self.port)),
            *(("--certificate", str(self.certificate)) if self.certificate else ()),
            *(("--certificate-key", str(self.certificate_key)) if self.certificate_key else ()),
            *(() if self.metrics else ("--no-metrics",)),
            *(() if self.docs else ("--no-docs",)),
        ]

    def check(self) -> None:
        """Look before anything starts.

        Raises:
            UsageError: strangers could reach the server without a key, or TLS would not work.
        """
        if api_key() is None and self.host != LOOPBACK:
            raise UsageError(f"--host {self.host}: others can reach it, so {KEY_VARIABLE} must hold a key")
        if (self.certificate is None) != (self.certificate_key is None):
            raise UsageError("--certificate and --certificate-key belong together")
        if self.certificate is not None and self.certificate_key is not None:
            check_certificate(self.certificate, self.certificate_key)


def check_certificate(certificate: Path, key: Path) -> None:
    """Raise UsageError unless the two files are a certificate and its key."""
    try:
        for path in (certificate, key):  # OpenSSL would not say which one is missing
            path.open("rb").close()
    except OSError as error:
        raise UsageError(f"{error.filename}: {error.strerror}") from error
    try:
        # Without a password to give, OpenSSL would ask the terminal for one.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password=lambda: b"")
    except (ssl.SSLError, ValueError) as error:
        what = "a certificate and its own key in PEM form, without a password"
        raise UsageError(f"{certificate}, {key}: not {what} ({error})") from error


def check_authorities(path: Path) -> None:
    """Raise UsageError unless the file holds certificates to trust."""
    try:
        ssl.create_default_context(cafile=path)
    except ssl.SSLError as error:
        raise UsageError(f"{path}: no certificates in PEM form ({error})") from error
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
