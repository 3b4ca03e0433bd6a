"""Terminal output of long runs: wrapped lines, and progress bars."""

from __future__ import annotations

import textwrap
from typing import Any

from tqdm import tqdm

WIDTH = 120


def print_wrapped(text: str) -> None:
    """Print ``text`` at once, in lines of at most WIDTH characters; a line's continuation is indented."""
    for line in text.splitlines():
        print(textwrap.fill(line, WIDTH, subsequent_indent="    ", break_on_hyphens=False), flush=True)


def bar(total: float, description: str, unit: str, **options: Any) -> tqdm[Any]:
    """A bar with the share done and the remaining time; silent without a terminal."""
    return tqdm(total=total, desc=description, unit=unit, disable=None, leave=False, **options)
