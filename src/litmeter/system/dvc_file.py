"""The code that a stage depends on, by its dvc.yaml; by its digest an earlier measurement holds, or not."""

from __future__ import annotations

from pathlib import Path

import yaml

from litmeter.paths import INDEX, MACHINE, MODEL, PACKAGES
from litmeter.system.files import digest

KNOWN_OTHERWISE = {MACHINE, INDEX, MODEL.exported, MODEL.compiled, PACKAGES}
"""Results by which what depends on them is known in another form; all others are files like code."""
NO_INPUT = {"__pycache__", ".pyc", ".tmp"}
"""Names and suffixes that .dvcignore has, too."""


def code_files(dvc_file: Path, stage: str) -> list[Path]:
    """The files that a stage depends on by its dvc.yaml, but for KNOWN_OTHERWISE; none without it.

    A path with a parameter (``${...}``) is photos or bodies, and known by what is in it.
    """
    stages = yaml.safe_load(dvc_file.read_bytes())["stages"] if dvc_file.exists() else {}
    deps = stages.get(stage, {}).get("deps", [])
    paths = [path for dep in deps if "${" not in dep and (path := Path(dep)) not in KNOWN_OTHERWISE]
    found = [file for path in paths for file in ([path] if path.is_file() else sorted(path.rglob("*")))]
    return [file for file in found if file.is_file() and NO_INPUT.isdisjoint((*file.parts, file.suffix))]


def code_digest(dvc_file: Path, stage: str) -> str:
    """Digest of the files of ``code_files``."""
    return digest(b"".join(file.read_bytes() for file in code_files(dvc_file, stage)))
