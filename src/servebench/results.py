"""Files that hold results: written whole or not at all, and read back."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Row = Mapping[str, Any]


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its place when the block ends without an error.

    Whoever reads ``path`` sees the old file or the new one, never a part. The temporary name is
    fixed, so one left behind by a killed process is overwritten by the next.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write ``content`` in a stable form; NaN and infinity are refused, unknown is null."""
    text = json.dumps(content, indent=2, allow_nan=False)
    with replacing(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """The object that ``path`` holds."""
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected an object, got {type(content).__name__}")
    return content


def write_csv(path: Path, rows: Sequence[Row], fields: Sequence[str] = ()) -> None:
    """Write ``rows``, which all have the keys of the first; None becomes an empty field.

    Args:
        fields: the keys, where there may be no row.
    """
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0] if rows else fields), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def read_csv(path: Path) -> list[dict[str, str]]:
    """The rows of ``path``, every field as text; an empty one stands for unknown."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def rounded(value: float | None, digits: int) -> float | None:
    """``value`` with ``digits`` decimals, None as it is."""
    return None if value is None else round(value, digits)
