"""Markdown files, and sections of them between two marker lines, that a command writes."""

from __future__ import annotations

from pathlib import Path

from litmeter.errors import ReportError
from litmeter.system.files import atomic_write


def write_section(path: Path, begin: str, end: str, content: str) -> None:
    """Replace the text between the marker lines ``begin`` and ``end``.

    Raises:
        ReportError: ``path`` lacks one of the two.
    """
    before, found_begin, section = path.read_text(encoding="utf-8").partition(begin)
    _, found_end, after = section.partition(end)
    if not found_begin or not found_end:
        raise ReportError(f"{path}: the marker {begin if not found_begin else end!r} is missing")
    write_text(path, f"{before}{begin}\n\n{content}\n\n{end}{after}")


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path``, atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
