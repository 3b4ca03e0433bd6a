"""Tables and counted nouns, for a terminal and for Markdown."""

from __future__ import annotations

import math
from collections.abc import Sequence


def text_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table with aligned columns: the first to the left, all others to the right."""
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
    """Such tables in lines of ``width``, one below another: as many columns as fit, beside the first."""
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
    """A Markdown table for a page; the first ``text_columns`` are text, all others numbers."""
    rules = [*["---"] * text_columns, *["---:"] * (len(head) - text_columns)]
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, rules, *rows])


def without_empty(
    head: Sequence[str], rows: Sequence[Sequence[str]], text_columns: int = 1
) -> tuple[list[str], list[list[str]]]:
    """The table without columns, after the first ``text_columns``, that have a dash in every row."""
    columns = range(len(head))
    kept = [number for number in columns if number < text_columns or any(row[number] != "-" for row in rows)]
    return [head[number] for number in kept], [[row[number] for number in kept] for row in rows]


def number_cell(value: float | None, digits: int) -> str:
    """A number with ``digits`` decimals, a dash where it is unknown."""
    return "-" if value is None else f"{value:,.{digits}f}"


def significant(value: float, digits: int = 3) -> str:
    """A number above 0 with so many digits; all of those before the point."""
    return f"{value:,.{max(0, digits - 1 - math.floor(math.log10(value)))}f}"


def pluralise(number: float, noun: str) -> str:
    """The number with its noun, in the plural unless the number is 1."""
    return f"{number:g} {noun}" if number == 1 else f"{number:g} {noun}s"
