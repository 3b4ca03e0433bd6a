"""The client: bodies of requests in both forms, and a request at a time."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import requests

from litmeter.direct.binding import KEY_HEADER, api_key, check_ca_file
from litmeter.errors import ServerError
from litmeter.system.http import check_url, direct_session

CONTENT_TYPES = {"json": "application/json", "image": "image/jpeg"}
"""Content type by form of the body; the server tells the format of an image by its content."""
TIMEOUT_S = 60.0


def json_body(image: bytes) -> bytes:
    """The JSON body with an image file in base64."""
    return json.dumps({"image": base64.b64encode(image).decode("ascii")}).encode("ascii")


def request_bodies(paths: Sequence[Path], form: str) -> list[bytes]:
    """A body for each image file: ``json`` (base64) or ``image`` (the file itself)."""
    files = [path.read_bytes() for path in paths]
    return [json_body(file) for file in files] if form == "json" else files


class Client:
    """A client of the server at ``url``, with the API key of the environment.

    ``ca_file`` is a PEM file with the CA certificates to trust; None for the system's.
    Raise UsageError where the URL, the API key or ``ca_file`` cannot be used.
    """

    def __init__(self, url: str, ca_file: Path | None = None) -> None:
        if ca_file is not None:
            check_ca_file(ca_file)
        key = api_key()
        self._url = check_url(url)
        self._headers = {"Content-Type": CONTENT_TYPES["image"]} | ({KEY_HEADER: key} if key else {})
        self._verify = True if ca_file is None else str(ca_file)

    def predict(self, image: bytes) -> tuple[int, Any]:
        """Classify an image file; return the HTTP status, and the prediction (200) or the reason.

        Raise ServerError where there is no answer, or not a classifier's, or the server's certificate is not
        trusted.
        """
        try:
            with direct_session() as session:
                answer = session.post(
                    f"{self._url}/predict",
                    data=image,
                    headers=self._headers,
                    timeout=TIMEOUT_S,
                    verify=self._verify,
                )
        except requests.exceptions.SSLError as error:
            doubt = f"{self._url} cannot be trusted ({error})"
            raise ServerError(f"{doubt}; --ca names the CA certificates to trust") from error
        except requests.RequestException as error:
            missing = f"no answer from {self._url} ({type(error).__name__})"
            raise ServerError(f"{missing}; `make serve` starts a server") from error
        if answer.status_code != 200:
            return answer.status_code, answer.text[:200]
        with suppress(ValueError, LookupError, TypeError):
            return 200, {key: answer.json()[key] for key in ("label", "probability")}
        raise ServerError(f"{self._url} is not the image classifier: its answer is {answer.text[:60]!r}")
