"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Sequence


def cell(value: float | None, digits: int) -> str:
    """A number with ``digits`` decimals, a dash where it is unknown."""
    return "-" if value is None else f"{value:,.{digits}f}"


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose first two columns are text, and all others numbers."""
    rules = ["---", "---", *["---:"] * (len(head) - 2)]
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, rules, *rows])
