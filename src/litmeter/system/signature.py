"""By what a stage knows that an earlier measurement still holds: hashes of code and content."""

from __future__ import annotations

import hashlib
import itertools
from pathlib import Path

import yaml


def code_digest(dvc_file: Path, stage: str) -> str:
    """Digest of the source files that a stage depends on, by its dvc.yaml."""
    own = yaml.safe_load(dvc_file.read_bytes())["stages"][stage]
    rooms = [Path(path) for path in own["deps"] if path.startswith("src/")]
    files = itertools.chain.from_iterable(
        sorted(room.rglob("*.py")) if room.is_dir() else [room] for room in rooms
    )
    return digest(b"".join(file.read_bytes() for file in files))


def digest(content: bytes) -> str:
    """The first 16 hexadecimal digits of the SHA-256 hash."""
    return hashlib.sha256(content).hexdigest()[:16]
