"""A server at any URL, and the requests that it is sent."""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import requests

from litmeter.errors import LoadError, ServerError, UsageError
from litmeter.system.http import check_url, direct_session

IMAGE_TOKEN = "{image}"
DEFAULT_TEMPLATE = '{"image": "{image}"}'
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif"})
"""Of the files that are taken from a folder."""
HEADER = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([!-~][ -~]*)")
"""Name and value by RFC 9110, in ASCII."""
CA_VARIABLE = "SSL_CERT_FILE"
"""Environment variable that OpenSSL reads, in the load generator's process too."""


@dataclass(frozen=True)
class Target:
    """A URL, and the bodies that are sent to it by POST.

    Attributes:
        headers: sent besides the content type.

    Raises:
        UsageError: the URL is none of HTTP.
    """

    url: str
    bodies: Sequence[bytes]
    content_type: str
    headers: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_url(self.url)

    def check_first_request(self, timeout_s: float) -> None:
        """Send one request before the load starts, so that a wrong URL or body is reported at once.

        Raises:
            ServerError: it was not answered with 200, the one status that counts as a good answer.
        """
        url, body = self.url, self.bodies[0]
        headers = {**self.headers, "Content-Type": self.content_type}
        with direct_session() as session:
            session.verify = os.environ.get(CA_VARIABLE, True)
            try:
                answer = session.post(url, data=body, headers=headers, timeout=timeout_s)
            except requests.Timeout as error:
                raise ServerError(f"{url} did not answer within {timeout_s:g} s") from error
            except requests.exceptions.SSLError as error:
                raise ServerError(
                    f"{url} cannot be trusted ({_reason(error)}); --ca names the CA certificates to trust"
                ) from error
            except requests.ConnectionError as error:
                raise ServerError(f"{url} cannot be reached ({_reason(error)})") from error
            except (requests.RequestException, ValueError) as error:
                raise ServerError(f"{url}: {error}") from error
        if answer.status_code != 200:
            text = " ".join(answer.text.split())[:200]
            raise ServerError(
                f"{url} answered the first request ({len(body):,} bytes of {self.content_type}, "
                f"beginning with {body[:24]!r}) with {answer.status_code}: {text}"
            )


def read_bodies(
    body_files: Sequence[Path], images: Sequence[Path], content_type: str, template: str | None
) -> list[bytes]:
    """The contents of ``body_files``, then one body per image.

    Args:
        images: files, or folders whose image files are taken. They are sent as they are where the content
            type is an image's.
        template: else each is its base64 in this JSON; None for DEFAULT_TEMPLATE.

    Raises:
        LoadError: there is no body, or a file cannot be read.
        UsageError: the template is not JSON with {image}, or is not used.
    """
    if not body_files and not images:
        raise LoadError("there is nothing to send: give --body-file or --images")
    as_files = content_type.lower().startswith("image/")
    if template is not None:
        if not images:
            raise UsageError("--template: it is for --images, which are missing")
        if as_files:
            raise UsageError(
                f"--template: not used, as --content-type {content_type} sends the files themselves"
            )
        if IMAGE_TOKEN not in template:
            raise UsageError(f"--template: {IMAGE_TOKEN} is missing, got {template!r}")
        try:
            json.loads(template)
        except ValueError as error:
            raise UsageError(f"--template: not JSON ({error}), got {template!r}") from error

    def body_of(image: bytes) -> bytes:
        encoded = base64.b64encode(image).decode("ascii")
        return (template or DEFAULT_TEMPLATE).replace(IMAGE_TOKEN, encoded).encode()

    pictures = map(_read, _image_files(images))
    return [*map(_read, body_files), *(pictures if as_files else map(body_of, pictures))]


def request_headers(lines: Sequence[str]) -> dict[str, str]:
    """Headers from lines of the form ``Name: value``.

    Raises:
        UsageError: another form, or Content-Type, which has an option of its own.
    """
    headers = {}
    for line in lines:
        match = HEADER.fullmatch(line)
        if match is None:
            raise UsageError(f"--header: expected 'Name: value', got {line!r}")
        if match[1].lower() == "content-type":
            raise UsageError("--header: the content type is given by --content-type")
        headers[match[1]] = match[2]
    return headers


def _image_files(paths: Sequence[Path]) -> list[Path]:
    files: list[Path] = []
    for path in paths:
        found = [path]
        if path.is_dir():
            found = sorted(file for file in path.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES)
        if not found:
            raise LoadError(f"{path}: a folder without an image file")
        files += found
    return files


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise LoadError(f"{path}: {error.strerror}") from error


def _reason(error: requests.ConnectionError) -> str:
    # The system's message, without urllib3's wrapping.
    match = re.search(r"\[Errno -?\d+\] ([\w ]+)|certificate verify failed", str(error))
    return (match[1] or match[0]) if match else type(error).__name__
