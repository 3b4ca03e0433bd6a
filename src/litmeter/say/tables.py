"""Tables, figures and counted nouns, for a terminal and for Markdown.

In Markdown every text is escaped, except that text between backticks is code.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence

CODE = re.compile("`([^`]+)`")
MARKUP = re.compile(r"[\\`*\[\]<&~$|]|(?<![^\W_])_|_(?![^\W_])")
"""Characters that are markup anywhere in Markdown, or in GitHub's dialect of it."""
BLOCK = re.compile(r"^([-+>=#]|\d+(?=[.)](\s|$)))")
"""Characters that begin a block of Markdown; after a number, the point or bracket behind it is escaped."""


def text_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table with aligned columns: the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    rules = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    table = (head, rules, *rows)
    return _joined([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])] for row in table)


def fitted_table(head: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> str:
    """Text tables below each other, of ``width`` characters: each has the first column and as many as fit."""
    first, *others = zip(head, *rows, strict=True)
    tables: list[list[Sequence[str]]] = []
    for column in others:
        if tables and sum(max(map(len, each)) + 3 for each in [*tables[-1], column]) < width:
            tables[-1].append(column)
        else:
            tables.append([first, column])
    lines = (zip(*table, strict=True) for table in tables)
    return "\n\n".join(text_table(head, rows) for head, *rows in lines)


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]], text_columns: int = 1) -> str:
    """A Markdown table for a page: the first ``text_columns`` to the left, the others to the right."""
    rules = [*["---"] * text_columns, *["---:"] * (len(head) - text_columns)]
    first, *lines = ([markdown_cell(cell) for cell in row] for row in (head, *rows))
    return _joined([first, rules, *lines])


def _joined(lines: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def markdown_cell(text: str) -> str:
    """A text as a cell of a Markdown table, where a pipe must be escaped in code, too."""
    parts = _parts(text)
    parts[1::2] = (part.replace("|", r"\|") for part in parts[1::2])
    return "".join(parts)


def markdown_text(text: str) -> str:
    """A text as a paragraph, or a part of one, in Markdown."""
    whole = "".join(_parts(text.strip()))
    found = BLOCK.match(whole)
    if found is None:
        return whole
    begin = found.end() if found[1].isdigit() else 0
    return f"{whole[:begin]}\\{whole[begin:]}"


def _parts(text: str) -> list[str]:
    """A text as one line of Markdown: escaped words and code in turn."""
    parts = CODE.split(" ".join(text.splitlines()))
    parts[::2] = (MARKUP.sub(r"\\\g<0>", part) for part in parts[::2])
    parts[1::2] = (f"`{part}`" for part in parts[1::2])
    return parts


def with_texts(table: str, head: str, texts: Sequence[str]) -> str:
    """A table with one more column, of texts of any length: it is to the left, and not padded."""
    cells = [head, "---", *texts]
    return "\n".join(f"{line} {cell} |" for line, cell in zip(table.splitlines(), cells, strict=True))


def without_empty(
    head: Sequence[str], rows: Sequence[Sequence[str]], text_columns: int = 1
) -> tuple[list[str], list[list[str]]]:
    """The table without columns, after the first ``text_columns``, that have a dash in every row."""
    kept = [at for at in range(len(head)) if at < text_columns or any(row[at] != "-" for row in rows)]
    return [head[at] for at in kept], [[row[at] for at in kept] for row in rows]


STREAM_UNITS = ("tokens", "events", "chunks", "reads", "pieces")
"""What is counted a second, the first that all streams have."""


def stream_columns(streams: Sequence[Mapping[str, float]]) -> tuple[list[str], list[list[str]]]:
    """Heads and cells of streamed answers, a row for each of TurnRow's ``stream``; none if none streams."""
    if not any(streams):
        return [], [[] for _ in streams]
    known = (unit for unit in STREAM_UNITS if all(f"{unit}_rps" in one for one in streams if one))
    unit = next(known, "bytes")
    heads = ["TTFT p95", "TPOT p95" if unit == "tokens" else "per piece p95", f"{unit}/s"]
    cells = [
        [*(_times_cell(one, name) for name in ("first", "piece")), rate_cell(one.get(f"{unit}_rps"))]
        for one in streams
    ]
    if any("share" in one for one in streams):  # the figures are of that part of the answers
        heads.append("streamed")
        shares = [100 * one.get("share", bool(one)) for one in streams]
        cells = [[*own, f"{share:.3g}%"] for own, share in zip(cells, shares, strict=True)]
    return heads, cells


def rate_name(unit: str | None) -> str:
    """The name of the rate that is compared, by what it counts."""
    return "rate" if unit in (None, "requests") else f"{unit}/s"


def p95_name(streams: bool) -> str:
    """The name of the percentile that is compared: of answers that stream, of the time to the first piece."""
    return "TTFT p95" if streams else "p95"


def p95_of(streams: bool) -> str:
    """What ends with that time, in JSON."""
    return "first piece" if streams else "answer"


def _times_cell(stream: Mapping[str, float], name: str) -> str:
    """The 95th percentile; the median where there are too few answers, which is said."""
    for percent, note in ((95, ""), (50, " (p50)")):
        if (ms := stream.get(f"{name}_p{percent}_ms")) is not None:
            return f"{significant(ms)} ms{note}"
    return "-"


def number_cell(value: float | None, digits: int) -> str:
    """A number with ``digits`` decimals; a dash where it is unknown."""
    return "-" if value is None else f"{value:,.{digits}f}"


def significant(value: float, digits: int = 3) -> str:
    """A number of at least 0, rounded to ``digits`` significant digits: most intervals support three."""
    return with_decimals(value, decimals_of(value, digits))


def decimals_of(value: float, digits: int = 3) -> int:
    """Decimals of a number of at least 0 with ``digits`` significant digits; negative: before the point."""
    if not value:
        return 0
    decimals = digits - 1 - math.floor(math.log10(value))
    return digits - 1 - math.floor(math.log10(round(value, decimals)))  # 99.96 is 100


def with_decimals(value: float, decimals: int) -> str:
    """A number rounded to ``decimals``, which may be negative."""
    return f"{round(value, decimals):,.{max(0, decimals)}f}"


def rate_cell(value: float | None) -> str:
    """A rate with three significant digits, a dash where it is unknown."""
    return "-" if value is None else significant(value)


def ratio_cell(ratio: float | None, low: float | None, high: float | None) -> str:
    """A ratio with its interval, with enough digits to tell both ends apart; a dash where it is unknown."""
    if ratio is None:
        return "-"
    if low is None or high is None or low == high:
        return with_decimals(ratio, min(2, decimals_of(ratio)))
    decimals = min(2, decimals_of(high))
    if with_decimals(low, decimals) == with_decimals(high, decimals):
        decimals = max(decimals + 1, -math.floor(math.log10(high - low)))
    value, begin, end = (with_decimals(each, decimals) for each in (ratio, low, high))
    return f"{value} ({begin} to {end})"


def pluralise(number: float, noun: str) -> str:
    """The number with its noun, which is in the plural unless the number is 1."""
    return f"{number:g} {noun}" if number == 1 else f"{number:g} {noun}s"
