"""Output of long runs: wrapped lines and progress."""

from __future__ import annotations

import shutil
import sys
import textwrap
from contextlib import AbstractContextManager, nullcontext
from time import monotonic
from typing import Any

from tqdm import tqdm

WIDTH = 120
"""Characters of a line where there is no terminal, and the most in one."""
EVERY_S = 10.0
"""Seconds between two progress lines where there is no terminal."""
_place = ""


def terminal_width() -> int:
    """Characters of a line in the terminal; WIDTH where there is no terminal."""
    return shutil.get_terminal_size((WIDTH, 0)).columns


def print_wrapped(text: str) -> None:
    """Print ``text`` at once, wrapped to the terminal's width or WIDTH, continuation lines indented."""
    width = min(WIDTH, terminal_width())
    for line in text.splitlines():
        print(textwrap.fill(line, width, subsequent_indent="    ", break_on_hyphens=False), flush=True)


def set_place(place: str) -> None:
    """Put ``place``, as "8/18", before each description of progress."""
    global _place
    _place = place


class ProgressLines:
    """tqdm's interface for logs: a line on standard error every EVERY_S seconds, none before that."""

    def __init__(self, total: float, description: str, initial: float = 0.0) -> None:
        self.n = self._initial = initial
        self.total, self._description = total, description
        self._began = self._shown = monotonic()
        self._text = ""

    def update(self, n: float = 1) -> None:
        """Add ``n`` to the work that is done, and print a line if EVERY_S seconds have passed."""
        self.n += n
        now = monotonic()
        if now - self._shown >= EVERY_S:
            self._shown = now
            text = self._description + (f": {min(1.0, self.n / self.total):.0%}" if self.total else "")
            if self._initial < self.n < self.total:
                left_s = (now - self._began) * (self.total - self.n) / (self.n - self._initial)
                text += f", {duration(left_s)} left"
            print(text + (f"; {self._text}" if self._text else ""), file=sys.stderr, flush=True)

    def set_postfix_str(self, s: str) -> None:
        """Set the text at the end of the next lines."""
        self._text = s


def duration(seconds: float) -> str:
    """Seconds up to two minutes, then minutes."""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def bar(
    total: float, description: str, unit: str, initial: float = 0.0
) -> AbstractContextManager[ProgressLines | tqdm[Any]]:
    """A progress bar that starts at ``initial`` of ``total``; without a terminal, ProgressLines."""
    described = f"{_place} {description}".strip()
    if not sys.stderr.isatty():
        return nullcontext(ProgressLines(total, described, initial))
    return tqdm(total=total, initial=initial, desc=described, unit=unit, leave=False, dynamic_ncols=True)
