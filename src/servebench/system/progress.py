"""Progress bars: on a terminal only, nothing is written to a file or a pipe."""

from __future__ import annotations

from typing import Any

from tqdm import tqdm


def bar(total: float, description: str, unit: str, **options: Any) -> tqdm[Any]:
    """A bar with the share done and the remaining time; silent without a terminal."""
    return tqdm(total=total, desc=description, unit=unit, disable=None, leave=False, **options)
