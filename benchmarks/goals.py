"""A figure with its target, as the benchmarks keep it in ``results/<goal>.json``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from servebench.paths import MACHINE
from servebench.results import read_json, write_json

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
