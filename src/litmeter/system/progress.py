"""Output of long runs: wrapped lines, and how far they are."""

from __future__ import annotations

import sys
import textwrap
from contextlib import AbstractContextManager, nullcontext
from time import monotonic
from typing import Any

from tqdm import tqdm

WIDTH = 120
EVERY_S = 10.0
"""Between two lines where there is no terminal."""
_place = ""


def print_wrapped(text: str) -> None:
    """Print ``text`` at once, in lines of at most WIDTH characters; a line's continuation is indented."""
    for line in text.splitlines():
        print(textwrap.fill(line, WIDTH, subsequent_indent="    ", break_on_hyphens=False), flush=True)


def set_place(place: str) -> None:
    """Say with each progress where in a longer run it stands, as "8/18"."""
    global _place
    _place = place


class ProgressLines:
    """A line every EVERY_S seconds on standard error, for logs; nothing of what takes no longer.

    ``total`` may change meanwhile, as it may with tqdm.
    """

    def __init__(self, total: float, description: str) -> None:
        self.n = 0.0
        self.total, self._description = total, description
        self._began = self._shown = monotonic()
        self._text = ""

    def update(self, n: float = 1) -> None:
        """Add to what is done, and print a line if it is time."""
        self.n += n
        now = monotonic()
        if now - self._shown >= EVERY_S:
            self._shown = now
            text = self._description + (f": {min(1.0, self.n / self.total):.0%}" if self.total else "")
            if 0 < self.n < self.total:
                left_s = (now - self._began) * (self.total - self.n) / self.n
                text += f", {duration(left_s)} left"
            print(text + (f"; {self._text}" if self._text else ""), file=sys.stderr, flush=True)

    def set_postfix_str(self, s: str) -> None:
        """What to say beside it."""
        self._text = s


def duration(seconds: float) -> str:
    """Seconds up to two minutes, then minutes."""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def bar(total: float, description: str, unit: str) -> AbstractContextManager[ProgressLines | tqdm[Any]]:
    """One line that moves, with the share done and the remaining time; without a terminal, ProgressLines."""
    described = f"{_place} {description}".strip()
    if not sys.stderr.isatty():
        return nullcontext(ProgressLines(total, described))
    return tqdm(total=total, desc=described, unit=unit, leave=False, dynamic_ncols=True)
