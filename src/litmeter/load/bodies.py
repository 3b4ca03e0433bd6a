"""Request bodies: what users send."""

from __future__ import annotations

import mimetypes
import os
import re
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from litmeter.errors import LoadError, UsageError
from litmeter.system.files import digest

JSON, JSON_LINES, UNKNOWN = "application/json", ".jsonl", "application/octet-stream"
HEADER = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([!-~][ -~]*)")
"""Name and value by RFC 9110, in ASCII."""
REFERENCE = re.compile(r"\$\{(\w+)\}")
"""A variable of the environment in a header's value."""


class Bodies(NamedTuple):
    """Request bodies, their common content type, and the requests' other headers."""

    contents: list[bytes]
    content_type: str
    headers: Mapping[str, str] = MappingProxyType({})

    @property
    def digest(self) -> str:
        """Hash of all bodies, each by itself, and of their content type; the headers may have secrets."""
        return digest(" ".join([*map(digest, self.contents), self.content_type]).encode())

    def to_json(self) -> Any:
        """JSON for ``from_json`` in another process, without the headers."""
        return [b64encode(content).decode() for content in self.contents], self.content_type

    @classmethod
    def from_json(cls, written: Any) -> Bodies:
        """The bodies that ``to_json`` wrote."""
        texts, content_type = written
        return cls([b64decode(text) for text in texts], content_type)


def read_bodies(path: Path, content_type: str | None = None) -> Bodies:
    """The bodies in a file of JSON lines (one per line), a folder (one per file) or a single file.

    Raise LoadError without a body, for an empty or unreadable file, or for names of several content types.
    """
    try:
        if path.suffix == JSON_LINES:
            contents = [line for line in path.read_bytes().splitlines() if line.strip()]
            types = {JSON}
        else:
            files = files_at(path)
            contents = [file.read_bytes() for file in files]
            types = {mimetypes.guess_type(file.name)[0] or UNKNOWN for file in files}
    except OSError as error:
        raise LoadError(f"{error.filename}: {error.strerror}") from error
    if not contents or not all(contents):
        raise LoadError(f"{path}: {'an empty file' if contents else 'no request body in it'}")
    if content_type is None and len(types) > 1:
        raise LoadError(f"{path}: files of several content types ({', '.join(sorted(types))}); name one")
    return Bodies(contents, content_type or types.pop())


def files_at(path: Path) -> list[Path]:
    """The files of a folder by their names, without hidden ones; anything else as it is."""
    if not path.is_dir():
        return [path]
    return sorted(file for file in path.iterdir() if file.is_file() and file.name[0] != ".")


def request_headers(lines: Sequence[str]) -> dict[str, str]:
    """Headers from lines ``Name: value``; raise UsageError for other lines, and for Content-Type."""
    headers = {}
    for line in lines:
        match = HEADER.fullmatch(line)
        if match is None:
            raise UsageError(f"--header: expected 'Name: value', got {line.partition(':')[0]!r}")
        if match[1].lower() == "content-type":
            raise UsageError("--header: the content type is given by --content-type")
        headers[match[1]] = match[2]
    return headers


def from_environment(headers: Mapping[str, str]) -> dict[str, str]:
    """Headers with variables for ``${NAME}``; raise UsageError, which shows no value, where one cannot be."""
    found = {}
    for name, value in headers.items():
        found[name] = REFERENCE.sub(lambda match: os.environ.get(match[1], "\n"), value)
        if not HEADER.fullmatch(f"{name}: {found[name]}"):
            named = ", ".join(REFERENCE.findall(value))
            raise UsageError(f"header {name}: {named} must be set in the environment, in printable ASCII")
    return found
