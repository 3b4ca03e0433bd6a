"""Request bodies, encoded before the clock starts."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from pathlib import Path

CONTENT_TYPE = "application/json"


def photo_body(content: bytes) -> bytes:
    """The JSON body that carries one image file as base64."""
    return json.dumps({"image": base64.b64encode(content).decode("ascii")}).encode("ascii")


def photo_bodies(paths: Sequence[Path]) -> list[bytes]:
    """One body per photograph."""
    return [photo_body(path.read_bytes()) for path in paths]
