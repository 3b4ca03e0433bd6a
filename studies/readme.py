"""Write what has been kept into the README's tables: ``python -m studies.readme``."""

from __future__ import annotations

from pathlib import Path

from servebench.system.files import read_json
from studies import ablation, against_peers, batch_size, compilers, costs, goals

README = Path("README.md")


def with_table(text: str, table: str) -> str:
    """``text`` with ``table`` in place of the one that has the same head."""
    lines = text.splitlines(keepends=True)
    first = lines.index(table.splitlines(keepends=True)[0])
    last = first
    while last < len(lines) and lines[last].startswith("|"):
        last += 1
    return "".join([*lines[:first], table.rstrip("\n") + "\n", *lines[last:]])


def tables() -> tuple[str, ...]:
    """All that the README shows of the benchmarks."""
    return (
        goals.table(),
        ablation.table(read_json(ablation.RESULT)["steps"]),
        compilers.table(read_json(compilers.RESULT)["models"]),
        batch_size.table(read_json(batch_size.RESULT)["sizes"]),
        costs.table(read_json(costs.RESULT)["ms"]),
        against_peers.table(),
    )


def main() -> None:
    """Replace each table by what has been kept last."""
    text = README.read_text(encoding="utf-8")
    for table in tables():
        text = with_table(text, table)
    README.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
