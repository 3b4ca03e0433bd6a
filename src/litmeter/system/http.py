"""HTTP requests straight to a measured server, and the check of its URL."""

from __future__ import annotations

from urllib.parse import urlsplit

import requests

from litmeter.errors import UsageError

CA_VARIABLE = "SSL_CERT_FILE"
"""Environment variable with the CA certificates, which OpenSSL in the load generator's process reads, too."""


def direct_session() -> requests.Session:
    """A session that ignores the environment's proxy and netrc, as the load generator does."""
    session = requests.Session()
    session.trust_env = False
    return session


def check_url(url: str) -> str:
    """Return ``url``; raise UsageError unless it is an HTTP URL."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a wrong port or brackets
        usable = False
    if not usable or any(character.isspace() for character in url):
        raise UsageError(f"--url: expected a URL like http://127.0.0.1:8000/predict, got {url!r}")
    return url
