"""A figure with its target, as the benchmarks keep it in ``results/<goal>.json``.

``python -m studies.goals`` prints a table of all that have been kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from servebench.report.markdown import markdown_table

from servebench.paths import MACHINE
from servebench.system.files import read_json, write_json

FOLDER = Path("benchmarks/results")


def keep(
    name: str,
    goal: str,
    target: float,
    values: Sequence[float],
    *,
    at_least: bool = True,
    **details: Any,
) -> bool:
    """Print the median of ``values`` with their spread, and write it down; whether it meets the target.

    Args:
        at_least: whether the target is a lower bound; else an upper one.
        details: kept beside it.
    """
    figure = median(values)
    met = figure >= target if at_least else figure <= target
    machine = read_json(MACHINE)
    write_json(
        FOLDER / f"{name}.json",
        {
            "goal": goal,
            "target": target,
            "figure": round(figure, 4),
            "met": met,
            "at_least": at_least,
            "values": [round(value, 4) for value in values],
            **details,
            "machine": machine["id"],
            "cpu": machine["cpu"],
            "cpu_flags": machine["cpu_flags"],
        },
    )
    bound = "at least" if at_least else "at most"
    spread = f"{min(values):.3g} to {max(values):.3g}"
    verdict = "met" if met else "not met"
    print(f"{name}: {figure:.3g} ({spread}), {bound} {target:g}: {verdict}. {goal}", flush=True)
    return met


def table() -> str:
    """All goals that have been measured, as Markdown."""
    rows = []
    for path in sorted(FOLDER.glob("*.json")):
        kept = read_json(path)
        if "at_least" in kept:
            values, bound = kept["values"], "at least" if kept["at_least"] else "at most"
            spread = f"{min(values):.3g} to {max(values):.3g}" if len(values) > 1 else "-"
            verdict = "yes" if kept["met"] else "no"
            figure = f"{kept['figure']:.3g}"
            rows.append([kept["goal"], f"{bound} {kept['target']:g}", figure, spread, verdict])
    return markdown_table(["goal", "target", "median", "spread", "met"], rows)


if __name__ == "__main__":
    print(table())
