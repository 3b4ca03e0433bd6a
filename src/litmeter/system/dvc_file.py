"""The code that a stage depends on, by its dvc.yaml; by its digest an earlier measurement holds, or not."""

from __future__ import annotations

from pathlib import Path

import yaml

from litmeter.paths import DVC_FILE
from litmeter.system.files import digest

NO_INPUT = {"__pycache__", ".pyc", ".tmp"}
"""Names and suffixes that .dvcignore has, too."""


def code_files(dvc_file: Path, stage: str) -> list[Path]:
    """The files that a stage depends on by its dvc.yaml, but for results of other stages; none without it.

    Results, and a path with a parameter (``${...}``: photos or bodies), are hashed by what is in them.
    """
    stages, *others = (
        yaml.safe_load(file.read_bytes())["stages"] if file.exists() else {} for file in (dvc_file, DVC_FILE)
    )
    entries = [entry.get("do", entry) for own in (stages, *others) for entry in own.values()]
    # The key of an output with options is its path.
    made = {
        path
        for entry in entries
        for out in entry.get("outs", [])
        for path in (out if isinstance(out, dict) else [out])
    }
    deps = [dep for dep in stages.get(stage, {}).get("deps", []) if "${" not in dep and dep not in made]
    paths = [Path(dep) for dep in deps]
    found = [file for path in paths for file in ([path] if path.is_file() else sorted(path.rglob("*")))]
    return [file for file in found if file.is_file() and NO_INPUT.isdisjoint((*file.parts, file.suffix))]


def code_digest(dvc_file: Path, stage: str) -> str:
    """Digest of the files of ``code_files``."""
    return digest(b"".join(file.read_bytes() for file in code_files(dvc_file, stage)))
