"""Output of long runs: wrapped lines, and progress."""

from __future__ import annotations

import shutil
import sys
import textwrap
from contextlib import AbstractContextManager, nullcontext
from time import monotonic
from typing import Any

from tqdm import tqdm

WIDTH = 120
EVERY_S = 10.0
"""Time between two lines of progress where there is no terminal."""
_place = ""


def terminal_width() -> int:
    """Characters of a line in the terminal; WIDTH where there is none."""
    return shutil.get_terminal_size((WIDTH, 0)).columns


def print_wrapped(text: str) -> None:
    """Print ``text`` at once, in lines of the terminal's width, WIDTH at most; continuations are indented."""
    width = min(WIDTH, terminal_width())
    for line in text.splitlines():
        print(textwrap.fill(line, width, subsequent_indent="    ", break_on_hyphens=False), flush=True)


def set_place(place: str) -> None:
    """Begin each progress with ``place``, such as "8/18": where a longer run stands."""
    global _place
    _place = place


class ProgressLines:
    """Progress for logs: a line on standard error every EVERY_S seconds; ``total`` may change, as in tqdm."""

    def __init__(self, total: float, description: str, initial: float = 0.0) -> None:
        self.n = self._initial = initial
        self.total, self._description = total, description
        self._began = self._shown = monotonic()
        self._text = ""

    def update(self, n: float = 1) -> None:
        """Add ``n`` to what is done, and print a line if it is time."""
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
        """Add the text ``s`` to each line."""
        self._text = s


def duration(seconds: float) -> str:
    """Seconds up to two minutes, then minutes."""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def bar(
    total: float, description: str, unit: str, initial: float = 0.0
) -> AbstractContextManager[ProgressLines | tqdm[Any]]:
    """A bar of tqdm; ProgressLines where there is no terminal. ``initial`` of ``total`` is done already."""
    described = f"{_place} {description}".strip()
    if not sys.stderr.isatty():
        return nullcontext(ProgressLines(total, described, initial))
    return tqdm(total=total, initial=initial, desc=described, unit=unit, leave=False, dynamic_ncols=True)
