"""Figures with their targets, kept in ``results/``: ``python -m studies.goals`` prints them all."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import mean, median, stdev
from typing import Any

from scipy.special import stdtrit

from litmeter.system.files import read_json
from litmeter.system.tables import markdown_table
from studies.harness import RESULTS, write_result

HEAD = ["goal", "target", "median", "spread", "95% interval", "met"]
FEWEST_ROUNDS = 3
"""For an interval over rounds."""

Interval = tuple[float, float]


def keep(
    name: str,
    goal: str,
    target: float,
    values: Sequence[float],
    *,
    at_least: bool = True,
    one_run: bool = False,
    interval: Interval | None = None,
    **details: Any,
) -> None:
    """Write down the values of all rounds, and print what they say of the target.

    Args:
        at_least: whether the target is a lower bound; else an upper one.
        one_run: whether the values are windows of one run, which share its luck, and not rounds.
        interval: at 95%, where it was computed elsewhere.
        details: kept beside it.
    """
    kept: dict[str, Any] = {
        "goal": goal,
        "target": target,
        "figure": round(median(values), 4),
        "at_least": at_least,
        "one_run": one_run or (len(values) == 1 and interval is None),
        "interval": interval,
        "values": [round(value, 4) for value in values],
    }
    write_result(name, kept | details)
    _, bound, figure, _, ends, met = cells(kept)
    print(f"{name}: {figure} (95% interval: {ends}), {bound}; met: {met}. {goal}", flush=True)


def interval_over(rounds: Sequence[float]) -> Interval | None:
    """The 95% interval of the mean over rounds, by Student's t; None for too few.

    Most figures are ratios, whose logarithms are as likely too high as too low.
    """
    if len(rounds) < FEWEST_ROUNDS:
        return None
    ratios = min(rounds) > 0
    values = [math.log(value) for value in rounds] if ratios else list(rounds)
    spread = float(stdtrit(len(values) - 1, 0.975)) * stdev(values) / math.sqrt(len(values))
    ends = (mean(values) - spread, mean(values) + spread)
    return (math.exp(ends[0]), math.exp(ends[1])) if ratios else ends


def verdict(
    values: Sequence[float],
    target: float,
    *,
    at_least: bool,
    one_run: bool = False,
    interval: Interval | None = None,
) -> str:
    """Whether the target is met: yes or no, where the whole interval says so.

    All of three rounds lie on one side of their own expectation in a quarter of all cases, so that is no
    proof. Values of one run have no interval that another run would keep to; the answer says so.
    """
    if one_run:
        ends, where = (min(values), max(values)), ", in one run"
    elif found := interval or interval_over(values):
        ends, where = found, ""
    else:
        return "not resolved"
    low, high = ends if at_least else (-ends[1], -ends[0])
    bound = target if at_least else -target
    if low < bound <= high:
        return "not resolved"
    return ("yes" if low >= bound else "no") + where


def cells(kept: dict[str, Any]) -> list[str]:
    """A goal's row."""
    values, target, at_least, one_run = kept["values"], kept["target"], kept["at_least"], kept["one_run"]
    interval = kept["interval"] or (None if one_run else interval_over(values))
    return [
        kept["goal"],
        f"{'at least' if at_least else 'at most'} {target:g}",
        f"{kept['figure']:.3g}",
        f"{min(values):.3g} to {max(values):.3g}" if len(values) > 1 else "-",
        f"{interval[0]:.3g} to {interval[1]:.3g}" if interval else "-",
        verdict(values, target, at_least=at_least, one_run=one_run, interval=interval),
    ]


def table() -> str:
    """All goals that have been measured, as Markdown."""
    results = [read_json(path) for path in sorted(RESULTS.glob("*.json"))]
    return markdown_table(HEAD, [cells(kept) for kept in results if "at_least" in kept], text_columns=2)


if __name__ == "__main__":
    print(table())
