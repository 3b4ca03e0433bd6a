"""Request bodies, encoded before the clock starts."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from pathlib import Path

CONTENT_TYPE = "application/json"
CONTENT_TYPES = {"json": CONTENT_TYPE, "image": "image/jpeg"}
"""By the form of a body. The server looks at what an image file is, not at what it is called."""


def photo_body(content: bytes) -> bytes:
    """The JSON body that carries one image file as base64."""
    return json.dumps({"image": base64.b64encode(content).decode("ascii")}).encode("ascii")


def request_bodies(paths: Sequence[Path], form: str) -> list[bytes]:
    """One body per photograph: ``json`` with the file as base64, or the ``image`` file as it is."""
    return photo_bodies(paths) if form == "json" else [path.read_bytes() for path in paths]


def photo_bodies(paths: Sequence[Path]) -> list[bytes]:
    """One JSON body per photograph."""
    return [photo_body(path.read_bytes()) for path in paths]
