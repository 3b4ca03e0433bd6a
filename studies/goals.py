"""Figures with their targets, kept in ``results/``: ``python -m studies.goals`` prints them all."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

from servebench.system.files import read_json
from servebench.system.tables import markdown_table
from studies.harness import RESULTS, write_result

HEAD = ["goal", "target", "median", "spread", "met"]


def keep(
    name: str, goal: str, target: float, values: Sequence[float], *, at_least: bool = True, **details: Any
) -> None:
    """Write down the values of all rounds, and print what they say of the target.

    Args:
        at_least: whether the target is a lower bound; else an upper one.
        details: kept beside it.
    """
    kept: dict[str, Any] = {
        "goal": goal,
        "target": target,
        "figure": round(median(values), 4),
        "at_least": at_least,
        "values": [round(value, 4) for value in values],
    }
    write_result(name, kept | details)
    _, bound, figure, spread, met = cells(kept)
    print(f"{name}: {figure} ({spread}), {bound}; met: {met}. {goal}", flush=True)


def verdict(values: Sequence[float], target: float, *, at_least: bool) -> str:
    """Whether the target is met: yes or no, where the values of all rounds say the same.

    A single value has no spread to tell luck from a fact, and says so.
    """
    good = {value >= target if at_least else value <= target for value in values}
    if len(good) > 1:
        return "not resolved"
    return ("yes" if good == {True} else "no") + (", in one run" if len(values) == 1 else "")


def cells(kept: dict[str, Any]) -> list[str]:
    """A goal's row."""
    values, target, at_least = kept["values"], kept["target"], kept["at_least"]
    return [
        kept["goal"],
        f"{'at least' if at_least else 'at most'} {target:g}",
        f"{kept['figure']:.3g}",
        f"{min(values):.3g} to {max(values):.3g}" if len(values) > 1 else "-",
        verdict(values, target, at_least=at_least),
    ]


def table() -> str:
    """All goals that have been measured, as Markdown."""
    results = [read_json(path) for path in sorted(RESULTS.glob("*.json"))]
    return markdown_table(HEAD, [cells(kept) for kept in results if "at_least" in kept], text_columns=2)


if __name__ == "__main__":
    print(table())
