"""Tables, figures and counted nouns, for a terminal and for Markdown.

Markdown escapes any text, so that it reads as it stands; text between backticks is code.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

CODE = re.compile("`([^`]+)`")
MARKUP = re.compile(r"[\\`*\[\]<&~$|]|(?<![^\W_])_|_(?![^\W_])")
"""Characters that are markup in Markdown, or in GitHub's, anywhere in a line."""
BLOCK = re.compile(r"^([-+>=#]|\d+(?=[.)](\s|$)))")
"""What begins a block in Markdown. A digit cannot be escaped, so the character after it is."""


def text_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table for the terminal: its first column is aligned to the left, all others to the right."""
    widths = [max(len(cell) for cell in column) for column in zip(head, *rows, strict=True)]
    rules = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = [
        [
            row[0].ljust(widths[0]),
            *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)),
        ]
        for row in (head, rules, *rows)
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def fitted_table(head: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> str:
    """The table in parts below each other: each has the first column, and as many others as fit ``width``."""
    first, *others = zip(head, *rows, strict=True)
    tables: list[list[Sequence[str]]] = []
    for column in others:
        if tables and sum(max(map(len, one)) + 3 for one in [*tables[-1], column]) < width:
            tables[-1].append(column)
        else:
            tables.append([first, column])
    lines = (zip(*table, strict=True) for table in tables)
    return "\n\n".join(text_table(head, rows) for head, *rows in lines)


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]], text_columns: int = 1) -> str:
    """A Markdown table for a page; the first ``text_columns`` are words, all others numbers."""
    rules = [*["---"] * text_columns, *["---:"] * (len(head) - text_columns)]
    lines = [[markdown_cell(cell) for cell in row] for row in (head, *rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (lines[0], rules, *lines[1:]))


def markdown_cell(text: str) -> str:
    """A text as a cell of a Markdown table, where a pipe ends even code."""
    parts = _parts(text)
    parts[1::2] = (part.replace("|", r"\|") for part in parts[1::2])
    return "".join(parts)


def markdown_text(text: str) -> str:
    """A text as a paragraph of Markdown, or a part of a paragraph."""
    whole = "".join(_parts(text.strip()))
    found = BLOCK.match(whole)
    if found is None:
        return whole
    begin = found.end() if found[1].isdigit() else 0
    return f"{whole[:begin]}\\{whole[begin:]}"


def _parts(text: str) -> list[str]:
    """A text in Markdown, in one line, as parts: words and code in turn."""
    parts = CODE.split(" ".join(text.splitlines()))
    parts[::2] = (MARKUP.sub(r"\\\g<0>", part) for part in parts[::2])
    parts[1::2] = (f"`{part}`" for part in parts[1::2])
    return parts


def without_empty(
    head: Sequence[str], rows: Sequence[Sequence[str]], text_columns: int = 1
) -> tuple[list[str], list[list[str]]]:
    """The table without columns of dashes alone; the first ``text_columns`` stay in any case."""
    columns = range(len(head))
    kept = [number for number in columns if number < text_columns or any(row[number] != "-" for row in rows)]
    return [head[number] for number in kept], [[row[number] for number in kept] for row in rows]


def number_cell(value: float | None, digits: int) -> str:
    """A number with ``digits`` decimals; a dash where it is unknown."""
    return "-" if value is None else f"{value:,.{digits}f}"


def significant(value: float, digits: int = 3) -> str:
    """A number of 0 or more with ``digits`` significant digits; most intervals support three."""
    return with_decimals(value, decimals_of(value, digits))


def decimals_of(value: float, digits: int = 3) -> int:
    """Decimals that leave ``digits`` significant digits; below 0 where those before the point are rounded."""
    if not value:
        return 0
    decimals = digits - 1 - math.floor(math.log10(value))
    return digits - 1 - math.floor(math.log10(round(value, decimals)))  # 99.96 is 100


def with_decimals(value: float, decimals: int) -> str:
    """A number rounded to ``decimals``, which may be below 0."""
    return f"{round(value, decimals):,.{max(0, decimals)}f}"


def rate_cell(value: float | None) -> str:
    """A rate with three significant digits; a dash where it is unknown."""
    return "-" if value is None else significant(value)


def ratio_cell(ratio: float | None, low: float | None, high: float | None) -> str:
    """A ratio with its interval, in three digits or as many as tell its ends apart; a dash if unknown."""
    if ratio is None:
        return "-"
    if low is None or high is None or low == high:
        return with_decimals(ratio, min(2, decimals_of(ratio)))
    decimals = min(2, decimals_of(high))
    if with_decimals(low, decimals) == with_decimals(high, decimals):
        decimals = max(decimals + 1, -math.floor(math.log10(high - low)))
    value, begin, end = (with_decimals(one, decimals) for one in (ratio, low, high))
    return f"{value} ({begin} to {end})"


def pluralise(number: float, noun: str) -> str:
    """The number with its noun, which is in the plural unless the number is 1."""
    return f"{number:g} {noun}" if number == 1 else f"{number:g} {noun}s"
