"""Reading of the CSV files that stages write."""

from __future__ import annotations

import csv
from pathlib import Path


def read_csv(path: Path) -> list[dict[str, str]]:
    """The rows of ``path``, every field as text; an empty field is an unknown value."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
