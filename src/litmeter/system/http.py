"""HTTP requests to a server that is measured: straight to it, by a URL that can be loaded."""

from __future__ import annotations

from urllib.parse import urlsplit

import requests

from litmeter.errors import UsageError

CA_VARIABLE = "SSL_CERT_FILE"
"""Environment variable that OpenSSL reads, in the load generator's process too."""


def direct_session() -> requests.Session:
    """A session without the environment's proxy and netrc, which the load generator does not use either."""
    session = requests.Session()
    session.trust_env = False
    return session


def check_url(url: str) -> str:
    """Return ``url``; raise UsageError where it is not a URL of HTTP."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # of the port, or of brackets
        usable = False
    if not usable or any(character.isspace() for character in url):
        raise UsageError(f"--url: expected a URL like http://127.0.0.1:8000/predict, got {url!r}")
    return url
