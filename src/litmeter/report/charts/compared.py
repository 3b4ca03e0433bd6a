"""Charts of the comparison: ratios with their intervals, and latency over rate."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

from litmeter.benchmark.rows import ComparisonRow
from litmeter.params import CANDIDATE
from litmeter.report.charts.chart import BLUE, GREY, INK, ORANGE, PURPLE, Axis, Chart, Mark, spread
from litmeter.report.results import Result
from litmeter.report.summary import short_names
from litmeter.system.tables import pluralise

COMPARISON_TITLE = "Rates of all configurations, measured in turn"
LATENCY_TITLE = "Latency over rate, measured in turn"
BEYOND, FARTHEST = 1.6, 4.0
"""The axis of ratios reaches this factor beyond the points, and up to FARTHEST for the intervals: one that is
wider runs out."""
LABEL_GAP = 0.055
"""Of the axis, between the labels of two lines."""


def fastest_first(rows: Sequence[ComparisonRow]) -> list[ComparisonRow]:
    """Ranked ones by rank and ratio, then the others by ratio."""
    return sorted(rows, key=lambda row: (row.rank or len(rows) + 1, -(row.ratio or 0.0)))


def colours(rows: Sequence[ComparisonRow]) -> dict[str, str]:
    """Blue for the fastest and what ties with it, orange for what is not ranked, purple for the candidate."""
    return {
        row.experiment: BLUE
        if row.rank == 1
        else ORANGE
        if row.rank is None
        else PURPLE
        if row.experiment == CANDIDATE
        else GREY
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
    lowest, highest = min(ratios), max(ratios)
    low = max(min([lowest / BEYOND, *(row.ratio_low for row in points if row.ratio_low)]), lowest / FARTHEST)
    high = min(
        max([highest * BEYOND, *(row.ratio_high for row in points if row.ratio_high)]), highest * FARTHEST
    )
    cut = any(low > (row.ratio_low or low) or high < (row.ratio_high or high) for row in points)
    notes = [ratio_note(row) + costs.get(row.experiment, "") for row in ordered]
    marks = [Mark("along", x=[1.0])]
    for row in points:
        colour = colour_of[row.experiment]
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
                hollow=row.rank is None,
            )
        )
    return Chart(
        COMPARISON_TITLE,
        x=Axis(f"times the rate of {reference}, logarithmic", log=True, low=low, high=high),
        y=Axis("", names=tuple(row.experiment for row in ordered), notes=tuple(notes)),
        marks=marks,
        note=f"At {pluralise(rows[0].users, 'user')}, with 95% intervals. Blue: the fastest, and what cannot "
        "be told from it. Purple: the candidate, if it is not blue. Orange: not ranked (answered in too few "
        f"rounds).{' An interval that ends at the edge goes on beyond it.' if cut else ''}",
    )


def ratio_note(row: ComparisonRow) -> str:
    """The ratio with its interval, or what is missing; whether it was kept from an earlier run."""
    if row.ratio is None:
        return "no answer" if row.ratio_high is None else f"no answer in a round, below {row.ratio_high:.2f}"
    earlier = ", earlier" if row.earlier else ""
    if row.rank is None:
        return f"{row.ratio:.2f}, not ranked{earlier}"
    if row.ratio_low is None or row.ratio_low == row.ratio_high:
        return f"{row.ratio:.2f}{earlier}"
    return f"{row.ratio:.2f} ({row.ratio_low:.2f} to {row.ratio_high:.2f}){earlier}"


def _tip(row: ComparisonRow) -> str:
    return f"{row.experiment}: {ratio_note(row)}, {row.rate_rps:.1f} req/s, {pluralise(row.rounds, 'round')}"


def latency(rows: Sequence[ComparisonRow], compared: Sequence[ComparisonRow], slo_ms: float) -> Chart:
    """A line per configuration through its loads: the median, and up to the p95 where it is known.

    Args:
        rows: of all loads.
        compared: of the first load, whose ranks colour the lines.
    """
    points: dict[str, list[tuple[float, float, float | None, str]]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row.users):
        if row.rate_rps and row.p50_ms:
            points[row.experiment].append((row.rate_rps, row.p50_ms, row.p95_ms, _latency_tip(row)))
    colour_of = colours(compared)
    shown = [point for own in points.values() for point in own]
    known = [slo_ms, *(ms for _, p50, p95, _ in shown for ms in (p50, p95) if ms)]
    low, high = min(known) / 1.5, max(known) * 1.8
    rates = [rate for rate, *_ in shown] or [1.0]
    marks = [Mark("across", y=[slo_ms], dashed=True)]
    for name, own in points.items():
        colour = colour_of[name]
        tails = [(rate, p50, p95) for rate, p50, p95, _ in own if p95]
        marks += [
            Mark("line", x=[rate for rate, *_ in own], y=[p50 for _, p50, *_ in own], colour=colour),
            Mark(
                "range",
                x=[rate for rate, *_ in tails],
                y=[p50 for _, p50, _ in tails],
                y2=[p95 for *_, p95 in tails],
                colour=colour,
            ),
        ]
        for number, (rate, p50, _, tip) in enumerate(own, 1):
            hollow = number < len(own)
            marks.append(Mark("point", x=[rate], y=[p50], texts=[tip], colour=colour, hollow=hollow))
    ends = {name: own[-1] for name, own in points.items()}
    short = short_names(list(ends))
    places = spread([math.log(p50) for _, p50, *_ in ends.values()], LABEL_GAP * math.log(high / low))
    for (name, (rate, *_)), place in zip(ends.items(), places, strict=True):
        colour = INK if colour_of[name] == GREY else colour_of[name]
        marks.append(Mark("text", x=[rate], y=[math.exp(place)], texts=[short[name]], colour=colour))
    return Chart(
        LATENCY_TITLE,
        x=Axis("requests/s, logarithmic", log=True, low=min(rates) / 1.3, high=max(rates) * 2.2),
        y=Axis("latency, ms, logarithmic", log=True, low=low, high=high),
        marks=marks,
        note=f"Each line leads from {_users(rows)} (filled, with its name). Points are medians; the lines "
        f"above them reach to the p95, where enough were answered. Dashed: the objective, {slo_ms:g} ms.",
        height=360,
    )


def _users(rows: Sequence[ComparisonRow]) -> str:
    users = sorted({row.users for row in rows})
    return " to ".join(pluralise(number, "user") for number in dict.fromkeys((users[0], users[-1])))


def _latency_tip(row: ComparisonRow) -> str:
    p95 = "unknown" if row.p95_ms is None else f"{row.p95_ms:.0f} ms"
    users = pluralise(row.users, "user")
    return f"{row.experiment}, {users}: {row.rate_rps:.1f} req/s, median {row.p50_ms:.0f} ms, p95 {p95}"
