"""The project's own files."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PHOTOS = ROOT / "data/sample/oxford-iiit-pet/images"


def installed(folder: Path, package: str, version: str) -> Path:
    """``folder``, in which a package is installed in this version; a process has it by its PYTHONPATH."""
    metadata = folder / f"{package.replace('-', '_')}-{version}.dist-info/METADATA"
    metadata.parent.mkdir()
    metadata.write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
    return folder
