"""What users send: the request bodies that the section ``load`` of params.yaml names."""

from __future__ import annotations

import mimetypes
from base64 import b64decode, b64encode
from pathlib import Path
from typing import Any, NamedTuple

from litmeter.data.index import read_index
from litmeter.errors import LoadError
from litmeter.params import LoadSettings

JSON, JSON_LINES, UNKNOWN = "application/json", ".jsonl", "application/octet-stream"


class Bodies(NamedTuple):
    """Request bodies, and the content type of all of them."""

    contents: list[bytes]
    content_type: str

    def to_json(self) -> Any:
        """What ``from_json`` reads, in another process."""
        return [b64encode(content).decode() for content in self.contents], self.content_type

    @classmethod
    def from_json(cls, written: Any) -> Bodies:
        """The bodies that ``to_json`` wrote."""
        texts, content_type = written
        return cls([b64decode(text) for text in texts], content_type)


def bodies_of(load: LoadSettings) -> Bodies:
    """The bodies that ``load`` names, else the photos; raise LoadError where there is none."""
    if load.bodies is not None:
        return read_bodies(Path(load.bodies), load.content_type)
    from litmeter.serve.client import CONTENT_TYPES, request_bodies  # whose imports a LitAPI's processes save

    photos = [Path(photo.path) for photo in read_index().photos]
    return Bodies(request_bodies(photos, load.request_body), CONTENT_TYPES[load.request_body])


def read_bodies(path: Path, content_type: str | None = None) -> Bodies:
    """A body for each line of a file of JSON lines, for each file of a folder, or of a single file.

    Raise LoadError where there is none, a file cannot be read, or the names say several content types.
    """
    try:
        if path.suffix == JSON_LINES:
            contents = [line for line in path.read_bytes().splitlines() if line.strip()]
            types = {JSON}
        else:
            files = [path]
            if path.is_dir():
                files = sorted(file for file in path.iterdir() if file.is_file() and file.name[0] != ".")
            contents = [file.read_bytes() for file in files]
            types = {mimetypes.guess_type(file.name)[0] or UNKNOWN for file in files}
    except OSError as error:
        raise LoadError(f"{error.filename}: {error.strerror}") from error
    if not contents:
        raise LoadError(f"{path}: no request body in it")
    if content_type is None and len(types) > 1:
        raise LoadError(f"{path}: files of several content types ({', '.join(sorted(types))}); name one")
    return Bodies(contents, content_type or types.pop())
