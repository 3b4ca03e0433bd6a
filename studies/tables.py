"""Write what has been kept into the tables of the documentation: ``python -m studies.tables``."""

from __future__ import annotations

import sys
from pathlib import Path

from litmeter.errors import ReportError
from litmeter.system.files import all_or_nothing, atomic_write
from studies import (
    ablation,
    against_peers,
    allocators,
    batch_size,
    capacity_search,
    compilers,
    costly_bodies,
    costs,
    goals,
    int8,
)

PAGES = {
    Path("docs/tuning.md"): (ablation.table, batch_size.table, int8.table, compilers.table, allocators.table),
    Path("docs/security.md"): (costly_bodies.table,),
    Path("docs/capacity.md"): (capacity_search.table,),
    Path("docs/peers-and-goals.md"): (goals.table, costs.table, against_peers.table),
}


def with_table(text: str, table: str) -> str:
    """``text`` with ``table`` in place of the one that has the same head.

    Raises:
        ReportError: there is none.
    """
    lines, new = text.splitlines(), table.splitlines()
    if new[0] not in lines:
        raise ReportError(f"no table with the head {new[0]}")
    first = last = lines.index(new[0])
    while last < len(lines) and lines[last].startswith("|"):
        last += 1
    return "\n".join([*lines[:first], *new, *lines[last:]]) + "\n"


def main() -> None:
    """Replace all tables, or none."""
    with all_or_nothing():
        for page, tables in PAGES.items():
            try:
                text = page.read_text(encoding="utf-8")
                for table in tables:
                    text = with_table(text, table())
            except OSError as error:
                sys.exit(f"{error.filename}: {error.strerror}")
            except ReportError as error:
                sys.exit(f"{page}: {error}")
            with atomic_write(page) as temporary:
                temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
