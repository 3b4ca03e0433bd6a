"""Progress of long work: a bar on a terminal, nothing in a file or a pipe."""

from __future__ import annotations

from typing import Any

from tqdm import tqdm


def bar(total: float, what: str, unit: str, **options: Any) -> tqdm[Any]:
    """A bar with the share done and the time still to go; silent without a terminal."""
    return tqdm(total=total, desc=what, unit=unit, disable=None, leave=False, **options)
