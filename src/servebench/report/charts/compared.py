"""Charts of the comparison: ratios with their intervals, and latency over rate."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence

from servebench.benchmark.rows import ComparisonRow
from servebench.params import CANDIDATE
from servebench.report.charts.chart import BLUE, GREY, INK, ORANGE, PURPLE, Axis, Chart, Mark, spread
from servebench.report.results import Result
from servebench.report.summary import short_names
from servebench.system.tables import pluralise

COMPARISON_TITLE = "Rates of all configurations, measured in turn"
LATENCY_TITLE = "Latency over rate, measured in turn"
BEYOND = 1.6
"""The axis of ratios reaches this factor beyond the points: wide intervals may run out."""
LABEL_GAP = 0.055
"""Of the axis, between the labels of two lines."""


def fastest_first(rows: Sequence[ComparisonRow]) -> list[ComparisonRow]:
    """Ranked ones by rank and ratio, then the others by ratio."""
    return sorted(rows, key=lambda row: (row.rank or len(rows) + 1, -(row.ratio or 0.0)))


def colours(rows: Sequence[ComparisonRow]) -> dict[str, str]:
    """Blue for the fastest and what ties with it, purple for the candidate, grey for the others."""
    return {
        row.experiment: BLUE if row.rank == 1 else PURPLE if row.experiment == CANDIDATE else GREY
        for row in rows
    }


def comparison(rows: Sequence[ComparisonRow], reference: str, results: Sequence[Result] = ()) -> Chart:
    """A row per configuration, fastest first: its ratio to the reference with the simultaneous interval.

    Args:
        rows: of one load.
        results: say how soon each one is ready, and how much memory it takes.
    """
    costs = {
        result.name: f"\n{result.metrics['ready_s']:.1f} s to start, {result.metrics['memory_mib']:,.0f} MiB"
        for result in results
    }
    ordered = fastest_first(rows)
    colour_of = colours(ordered)
    points = [row for row in ordered if row.ratio]
    ratios = [row.ratio or 0.0 for row in points] or [1.0]
    low, high = min(ratios) / BEYOND, max(ratios) * BEYOND
    notes = [note(row) + costs.get(row.experiment, "") for row in ordered]
    marks = [Mark("along", x=[1.0])]
    for row in points:
        doubtful = row.rank is None
        colour = ORANGE if doubtful else colour_of[row.experiment]
        if row.ratio_low is not None and row.ratio_high is not None:
            ends = (max(row.ratio_low, low), min(row.ratio_high, high))
            marks.append(Mark("range", x=[ends[0]], x2=[ends[1]], y=[row.experiment], colour=colour))
        marks.append(
            Mark(
                "point",
                x=[row.ratio or 0.0],
                y=[row.experiment],
                texts=[_tip(row)],
                colour=colour,
                hollow=doubtful,
            )
        )
    return Chart(
        COMPARISON_TITLE,
        x=Axis(f"times the rate of {reference}, logarithmic", log=True, low=low, high=high),
        y=Axis("", names=tuple(row.experiment for row in ordered), notes=tuple(notes)),
        marks=marks,
        note=f"At {pluralise(rows[0].users, 'user')}, with 95% intervals. Blue: the fastest, and what cannot "
        "be told from it. Purple: the candidate. Orange: not ranked.",
    )


def note(row: ComparisonRow) -> str:
    """The ratio with its interval, or what is missing."""
    if row.ratio is None:
        return "no answer"
    if row.rank is None:
        return f"{row.ratio:.2f}, not ranked"
    if row.ratio_low is None or row.ratio_low == row.ratio_high:
        return f"{row.ratio:.2f}"
    return f"{row.ratio:.2f} ({row.ratio_low:.2f} to {row.ratio_high:.2f})"


def _tip(row: ComparisonRow) -> str:
    return f"{row.experiment}: {note(row)}, {row.rate_rps:.1f} req/s, {pluralise(row.rounds, 'round')}"


def latency(rows: Sequence[ComparisonRow], slo_ms: float) -> Chart:
    """A line per configuration through its loads: the median, and up to the p95 where it is known.

    Args:
        rows: of all loads.
    """
    loads: Mapping[str, list[ComparisonRow]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row.users):
        if row.rate_rps and row.p50_ms:
            loads[row.experiment].append(row)
    compared = [row for row in rows if row.ratio is not None]
    colour_of = colours(rows) | colours(compared)
    known = [value for own in loads.values() for row in own for value in (row.p50_ms, row.p95_ms) if value]
    low, high = min([slo_ms, *known]) / 1.5, max([slo_ms, *known]) * 1.5
    rates = [row.rate_rps or 1.0 for own in loads.values() for row in own] or [1.0]
    marks = [Mark("across", y=[slo_ms], colour=ORANGE, dashed=True)]
    for name, own in loads.items():
        x, y = [row.rate_rps or 1.0 for row in own], [row.p50_ms or 1.0 for row in own]
        colour = colour_of[name]
        tails = [row for row in own if row.p95_ms]
        marks += [
            Mark("line", x=x, y=y, colour=colour),
            Mark(
                "range",
                x=[row.rate_rps or 1.0 for row in tails],
                y=[row.p50_ms or 1.0 for row in tails],
                y2=[row.p95_ms or 1.0 for row in tails],
                colour=colour,
            ),
            Mark("point", x=x, y=y, texts=[_latency_tip(row) for row in own], colour=colour),
        ]
    ends = {name: own[-1] for name, own in loads.items()}
    short = short_names(list(ends))
    gap = LABEL_GAP * math.log(high / low)
    heights = spread([math.log(row.p50_ms or 1.0) for row in ends.values()], gap)
    for (name, row), place in zip(ends.items(), heights, strict=True):
        colour = INK if colour_of[name] == GREY else colour_of[name]
        marks.append(
            Mark("text", x=[row.rate_rps or 1.0], y=[math.exp(place)], texts=[short[name]], colour=colour)
        )
    return Chart(
        LATENCY_TITLE,
        x=Axis("requests/s, logarithmic", log=True, low=min(rates) / 1.3, high=max(rates) * 2.2),
        y=Axis("latency, ms, logarithmic", log=True, low=low, high=high * 1.2),
        marks=marks,
        note=f"From {_users(rows)}: points are medians, lines above them reach to the p95 where enough were "
        f"answered. Dashed: the objective, {slo_ms:g} ms.",
        height=360,
    )


def _users(rows: Sequence[ComparisonRow]) -> str:
    users = sorted({row.users for row in rows})
    return " to ".join(pluralise(number, "user") for number in dict.fromkeys((users[0], users[-1])))


def _latency_tip(row: ComparisonRow) -> str:
    p95 = "unknown" if row.p95_ms is None else f"{row.p95_ms:.0f} ms"
    users = pluralise(row.users, "user")
    return f"{row.experiment}, {users}: {row.rate_rps:.1f} req/s, median {row.p50_ms:.0f} ms, p95 {p95}"
