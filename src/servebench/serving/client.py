"""How a client asks the server: the two forms of a body, and one request at a time."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import requests

from servebench.errors import ServerError
from servebench.serving.auth import KEY_HEADER, api_key
from servebench.serving.binding import check_authorities

CONTENT_TYPES = {"json": "application/json", "image": "image/jpeg"}
"""By the form of a body. The server looks at what an image file is, not at what it is called."""
TIMEOUT_S = 60.0


def json_body(image: bytes) -> bytes:
    """The JSON body that carries one image file as base64."""
    return json.dumps({"image": base64.b64encode(image).decode("ascii")}).encode("ascii")


def request_bodies(paths: Sequence[Path], form: str) -> list[bytes]:
    """One body per image file: ``json`` with the file as base64, or the ``image`` file as it is."""
    files = [path.read_bytes() for path in paths]
    return [json_body(file) for file in files] if form == "json" else files


class Client:
    """Asks the server at ``url``, with the API key of the environment.

    Args:
        authorities: PEM file of the certificates to trust, for HTTPS; None: the system's.

    Raises:
        UsageError: the key or the file cannot be used.
    """

    def __init__(self, url: str, authorities: Path | None = None) -> None:
        if authorities is not None:
            check_authorities(authorities)
        key = api_key()
        self._url = url
        self._headers = {"Content-Type": CONTENT_TYPES["image"]} | ({KEY_HEADER: key} if key else {})
        self._verify = True if authorities is None else str(authorities)

    def predict(self, image: bytes) -> tuple[int, Any]:
        """HTTP status and content of the answer about one image file: an object for 200, else text.

        Raises:
            ServerError: there is no answer, or nobody vouches for the server.
        """
        try:
            answer = requests.post(
                f"{self._url}/predict",
                data=image,
                headers=self._headers,
                timeout=TIMEOUT_S,
                verify=self._verify,
            )
        except requests.exceptions.SSLError as error:
            raise ServerError(f"{self._url} cannot be trusted ({error}); --ca names who vouches") from error
        except requests.RequestException as error:
            raise ServerError(
                f"no answer from {self._url} ({type(error).__name__}); `make serve` starts a server"
            ) from error
        return answer.status_code, answer.json() if answer.status_code == 200 else answer.text[:200]
