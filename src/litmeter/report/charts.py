"""The charts of the results: the comparison, one configuration, parts of a whole, a search, a capacity."""

from __future__ import annotations

import itertools
import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from litmeter.measure.capacity import CapacityResult
from litmeter.measure.rows import BatchRow, ComparisonRow
from litmeter.params import CANDIDATE
from litmeter.paths import PICTURES_FOLDER
from litmeter.report.bounds import Bound
from litmeter.report.drawing import (
    BLUE,
    GREY,
    INK,
    ORANGE,
    PAPER,
    PURPLE,
    SEQUENCE,
    Chart,
    draw_bars,
    draw_point,
    save_png,
    set_logarithmic,
    set_shares,
    spread,
    steps,
)
from litmeter.report.results import Result
from litmeter.report.tables import short_names
from litmeter.system.tables import pluralise
from litmeter.tune.rows import TuneRow, fate, ratio_cell

COMPARISON_TITLE = "Rates of all configurations, measured in turn"
BOUNDS_TITLE = "From the hardware's peak down to the served rate"
STAGES_TITLE = "Where the time of a request goes"
BATCHES_TITLE = "Sizes of batches by concurrency"

BEYOND, FARTHEST = 1.6, 4.0
"""The axis of ratios reaches this factor beyond the points, and up to FARTHEST for the intervals: one that is
wider runs out."""
LABEL_GAP = 0.055
"""Of the axis, between the labels of two lines."""


def draw_pictures(
    results: Sequence[Result],
    bounds_by_name: Mapping[str, Sequence[Bound]],
    compared: Sequence[ComparisonRow],
    all_loads: Sequence[ComparisonRow],
    reference: str,
    slo_ms: float,
) -> None:
    """Draw those in assets/results/, which compare all, and one per configuration; remove others.

    Args:
        compared: rows of the first load.
        all_loads: rows of all loads.
    """
    pictures = {
        result.name: [bounds(result, bounds_by_name[result.name]), rates(result), usage(result)]
        for result in results
    } | {
        "comparison": [comparison(compared, reference, results)],
        "latency": [latency(all_loads, compared, slo_ms)],
        "stages": [stages(results)],
        "batch_sizes": [batch_sizes(results)],
    }
    for name, charts in pictures.items():
        save_png(PICTURES_FOLDER / f"{name}.png", charts)
    for path in PICTURES_FOLDER.glob("*.png"):
        if path.stem not in pictures:
            path.unlink()


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
    points = [row for row in ordered if row.ratio]
    ratios = [row.ratio or 0.0 for row in points] or [1.0]
    lowest, highest = min(ratios), max(ratios)
    ends = [end for row in points for end in (row.ratio_low, row.ratio_high) if end]
    low = max(min([lowest / BEYOND, *ends]), lowest / FARTHEST)
    high = min(max([highest * BEYOND, *ends]), highest * FARTHEST)

    def draw(axes: Axes) -> None:
        colour_of = colours(ordered)
        axes.axvline(1.0, color=INK, lw=1)
        for place, row in enumerate(ordered):
            if not row.ratio:
                continue
            colour = colour_of[row.experiment]
            if row.ratio_low is not None and row.ratio_high is not None:
                axes.hlines(place, max(row.ratio_low, low), min(row.ratio_high, high), color=colour, lw=2)
            tip = f"{row.experiment}: {row.rate_rps:.1f} req/s in {pluralise(row.rounds, 'round')}"
            draw_point(axes, row.ratio, place, colour, tip, hollow=row.rank is None)
        set_logarithmic(axes.xaxis, low, high)
        axes.set_xlabel(f"times {reference}, logarithmic")

    cut = any(end < low or end > high for end in ends)
    return Chart(
        COMPARISON_TITLE,
        draw,
        f"At {pluralise(rows[0].users, 'user')}, with 95% intervals. Blue: the fastest, and what cannot be "
        "told from it. Purple: the candidate, if it is not blue. Orange: not ranked (answered in too few "
        f"rounds).{' An interval that ends at the edge goes on beyond it.' if cut else ''}",
        names=[row.experiment for row in ordered],
        notes=[_ratio_note(row) + costs.get(row.experiment, "") for row in ordered],
    )


def _ratio_note(row: ComparisonRow) -> str:
    """The ratio with its interval, or what is missing; whether it was kept from an earlier run."""
    if row.ratio is None:
        return "no answer" if row.ratio_high is None else f"no answer in a round, below {row.ratio_high:.2f}"
    text = ratio_cell(row.ratio, row.ratio_low, row.ratio_high)
    return text + (", not ranked" if row.rank is None else "") + (", earlier" if row.earlier else "")


def latency(rows: Sequence[ComparisonRow], compared: Sequence[ComparisonRow], slo_ms: float) -> Chart:
    """A line per configuration through its loads: the median, and up to the p95 where it is known.

    Args:
        rows: of all loads.
        compared: of the first load, whose ranks colour the lines.
    """
    lines: dict[str, list[tuple[float, float, ComparisonRow]]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row.users):
        if row.rate_rps and row.p50_ms:
            lines[row.experiment].append((row.rate_rps, row.p50_ms, row))
    shown = [point for line in lines.values() for point in line]
    known = [slo_ms, *(ms for _, p50_ms, row in shown for ms in (p50_ms, row.p95_ms) if ms)]
    low, high = min(known) / 1.5, max(known) * 1.8

    def draw(axes: Axes) -> None:
        colour_of = colours(compared)
        axes.axhline(slo_ms, color=INK, lw=1, ls="--")
        for name, line in lines.items():
            colour = colour_of[name]
            axes.plot([rate for rate, *_ in line], [p50 for _, p50, _ in line], color=colour, lw=1.8)
            for rate, p50_ms, row in line:
                if row.p95_ms:
                    axes.vlines(rate, p50_ms, row.p95_ms, color=colour, lw=2)
                draw_point(axes, rate, p50_ms, colour, _latency_tip(row), hollow=row is not line[-1][-1])
        short = short_names(list(lines))
        ends = {short[name]: (colour_of[name], *line[-1][:2]) for name, line in lines.items()}
        places = spread([math.log(ms) for *_, ms in ends.values()], LABEL_GAP * math.log(high / low))
        for (name, (colour, rate, _)), place in zip(ends.items(), places, strict=True):
            axes.annotate(
                name,
                (rate, math.exp(place)),
                (6, 0),
                textcoords="offset points",
                va="center",
                color=INK if colour == GREY else colour,
                bbox={"facecolor": PAPER, "edgecolor": "none", "alpha": 0.7, "pad": 0.5},
            )
        rates = [rate for rate, *_ in shown] or [1.0]
        set_logarithmic(axes.xaxis, min(rates) / 1.3, max(rates) * 2.2)
        set_logarithmic(axes.yaxis, low, high)
        axes.set(xlabel="requests/s, logarithmic", ylabel="latency, ms, logarithmic")

    users = sorted({row.users for row in rows})
    loads = " to ".join(pluralise(number, "user") for number in dict.fromkeys((users[0], users[-1])))
    return Chart(
        "Latency over rate, measured in turn",
        draw,
        f"Each line leads from {loads} (filled, with its name). Points are medians; the lines above them "
        f"reach to the p95, where enough were answered. Dashed: the objective, {slo_ms:g} ms.",
    )


def _latency_tip(row: ComparisonRow) -> str:
    p95 = "unknown" if row.p95_ms is None else f"{row.p95_ms:.0f} ms"
    users = pluralise(row.users, "user")
    return f"{row.experiment}, {users}: {row.rate_rps:.1f} req/s, median {row.p50_ms:.0f} ms, p95 {p95}"


def bounds(result: Result, found: Sequence[Bound]) -> Chart:
    """A bar per bound, and behind it what is lost to the bound above."""

    def draw(axes: Axes) -> None:
        tips = [f"{bound.name}: {bound.rate_rps:,.1f} images/s" for bound in found]
        draw_bars(axes, [bound.rate_rps for bound in found], [0.0] * len(found), tips, GREY)
        for place, (upper, lower) in enumerate(itertools.pairwise(found), 1):
            if upper.rate_rps > lower.rate_rps:
                lost = upper.rate_rps - lower.rate_rps
                axes.barh(place, lost, left=lower.rate_rps, height=0.6, color=ORANGE, alpha=0.25)
        for place, bound in enumerate(found):
            if bound.low_rps is not None:
                axes.hlines(place, bound.lowest_rps, bound.highest_rps, color=INK, lw=2)
        axes.set_xlim(left=0.0)
        axes.set_xlabel("images/s = requests/s")

    return Chart(
        f"{result.name}, {result.serve.precision} precision: {BOUNDS_TITLE[0].lower()}{BOUNDS_TITLE[1:]}",
        draw,
        "× is the share of the bound above; pale: lost to it; lines: 95% intervals.",
        names=[bound.name for bound in found],
        notes=[_bound_note(bound) for bound in found],
    )


def _bound_note(bound: Bound) -> str:
    rate = f"{bound.rate_rps:,.0f}" if bound.rate_rps >= 100 else f"{bound.rate_rps:.1f}"
    return rate if bound.share is None else f"{rate} (×{bound.share:.2f})"


def rates(result: Result) -> Chart:
    """The rate in-process by batch size, and served by users."""
    bad = [level for level in result.levels if not level.valid]

    def draw(axes: Axes) -> None:
        sizes = [row.batch_size for row in result.baseline]
        for colour, label, key in (
            (INK, "model alone, in-process", "model_rps"),
            (GREY, "decode, preprocess and model, in-process", "pipeline_rps"),
        ):
            in_process = [getattr(row, key) for row in result.baseline]
            axes.plot(sizes, in_process, color=colour, ls="--", label=label)
        users = [level.users for level in result.levels]
        served = [level.throughput_rps for level in result.levels]
        axes.plot(users, served, color=BLUE, lw=1.8, label="served")
        for level in result.levels:
            axes.vlines(level.users, level.low_rps, level.high_rps, color=BLUE, lw=2)
            tip = f"{pluralise(level.users, 'user')}: {level.throughput_rps:.1f} req/s"
            tip += "" if level.valid else f", not valid: {level.invalid_reason}"
            colour = BLUE if level.valid else ORANGE
            draw_point(axes, level.users, level.throughput_rps, colour, tip, hollow=not level.valid)
        _set_loads(axes, {*sizes, *users})
        axes.set_ylim(bottom=0.0)
        axes.set(xlabel="batch size, or users", ylabel="images/s = requests/s")

    title = f"{result.name}: rate by batch size, and by users"
    return Chart(title, draw, "Orange: not valid." if bad else "", height=2.5)


def usage(result: Result) -> Chart:
    """What was used of the CPU, and of the GPU where there is one, by users."""

    def draw(axes: Axes) -> None:
        for what, colour in (("CPU", BLUE), ("GPU", PURPLE)):
            percents = [(level.users, getattr(level, f"{what.lower()}_percent")) for level in result.levels]
            known = [(users, percent / 100) for users, percent in percents if percent is not None]
            if known:
                axes.plot(*zip(*known, strict=True), "o-", color=colour, markersize=6, label=what)
        _set_loads(axes, {level.users for level in result.levels})
        set_shares(axes.yaxis, 1.05)
        axes.set(xlabel="users", ylabel="in use")

    return Chart(f"{result.name}: use of the machine", draw, height=2.2)


def _set_loads(axes: Axes, values: set[int]) -> None:
    """An axis of users or batch sizes, with a tick at each."""
    ticks = sorted(values)
    set_logarithmic(axes.xaxis, ticks[0] / 1.3, ticks[-1] * 1.3, ticks)


def stages(results: Sequence[Result]) -> Chart:
    """A bar per configuration: the share of each stage in a request's mean time at the best level."""
    times = {
        result.name: own
        for result in results
        if result.best and (own := result.stage_ms(result.best.users)) and sum(own.values()) > 0
    }
    users = {result.name: pluralise(result.best.users, "user") for result in results if result.best}
    names = list(dict.fromkeys(stage for own in times.values() for stage in own))
    colour_of = {name: SEQUENCE[number % len(SEQUENCE)] for number, name in enumerate(names)}

    def draw(axes: Axes) -> None:
        _draw_parts(axes, times, colour_of, "ms")
        axes.set_xlabel("share of a request's mean time, at the best level")

    return Chart(
        STAGES_TITLE,
        draw,
        "Each at its fastest number of users, as shares of the times at the right. batch_wait: until all of "
        "its batch is decoded. LitServe's own transport waits for more requests in the queue.",
        names=list(times),
        notes=[f"{sum(own.values()):,.0f} ms, {users[name]}" for name, own in times.items()],
    )


def batch_sizes(results: Sequence[Result]) -> Chart:
    """A bar per configuration that forms batches and level: the share of batches by their size."""
    counts: dict[str, dict[str, float]] = {}
    notes = []
    for result in results:
        for level in result.levels:
            own = {_size(row): float(row.batches) for row in result.batches if row.users == level.users}
            if result.serve.max_batch_size > 1 and sum(own.values()) > 0:
                counts[f"{result.name}, {pluralise(level.users, 'user')}"] = own
                notes.append("" if level.batch_size is None else f"mean {level.batch_size:.1f}")
    limits = sorted({float(row.up_to): _size(row) for result in results for row in result.batches}.items())
    sizes = [size for _, size in limits if any(own.get(size) for own in counts.values())]

    def draw(axes: Axes) -> None:
        _draw_parts(axes, counts, dict(zip(sizes, steps(len(sizes)), strict=True)), "batches")
        axes.set_xlabel("share of the batches")

    return Chart(BATCHES_TITLE, draw, names=list(counts), notes=notes)


def _size(row: BatchRow) -> str:
    return "larger" if math.isinf(float(row.up_to)) else f"up to {row.up_to}"


def _draw_parts(
    axes: Axes, rows: Mapping[str, Mapping[str, float]], colour_of: Mapping[str, str], unit: str
) -> None:
    """Bars that add up to 1 in each row, in a colour per part."""
    ends = np.zeros(len(rows))
    for part, colour in colour_of.items():
        begins = ends
        ends = begins + [own.get(part, 0.0) / sum(own.values()) for own in rows.values()]
        tips = [f"{name}: {part}, {own.get(part, 0.0):,.4g} {unit}" for name, own in rows.items()]
        draw_bars(axes, ends.tolist(), begins.tolist(), tips, colour, label=part)
    set_shares(axes.xaxis)


def changes(found: Mapping[str, tuple[float, float, float]], notes: Sequence[str]) -> Chart:
    """A row per configuration: its ratio to the reference, after over before, with its interval."""

    def draw(axes: Axes) -> None:
        axes.axvline(1.0, color=INK, lw=1)
        for place, (ratio, low, high) in enumerate(found.values()):
            resolved = not low <= 1 <= high
            colour = BLUE if resolved else ORANGE
            axes.hlines(place, low, high, color=colour, lw=2)
            draw_point(axes, ratio, place, colour, hollow=not resolved)
        ends = [0.9, 1.1, *(end for _, *interval in found.values() for end in interval)]
        set_logarithmic(axes.xaxis, min(ends) / 1.05, max(ends) * 1.05)
        axes.set_xlabel("after over before, logarithmic")

    return Chart(
        "Ratio to the reference: after over before",
        draw,
        "95% intervals. Blue: changed beyond them. Orange: not resolved. Code that changes the reference "
        "moves all ratios.",
        names=list(found),
        notes=notes,
    )


STATUS_COLOURS = {
    "winner": BLUE,
    "equal": BLUE,
    "not resolved": ORANGE,
    "slower": GREY,
    "excluded": ORANGE,
}
WORDS = {
    r"\d+x\d+": "2x1: workers x threads",
    r"b\d+": "b4: batches of up to 4",
    r"\d+ms": "0ms: the timeout of a batch",
    "keep": "keep: freed memory kept",
}
"""Of a configuration's name, as a pattern, and what the chart's note says of it."""


def tune(rows: Sequence[TuneRow]) -> Chart:
    """A row per configuration that raced: its rate over the fastest one's in the rounds of both, and as
    predicted."""
    fastest = next((row for row in rows if row.ratio_low == row.ratio_high == 1.0), rows[0])
    names = [
        f"serve: {name}" if row.incumbent else name for row, name in zip(rows, _distinct(rows), strict=True)
    ]

    def draw(axes: Axes) -> None:
        axes.axvline(1.0, color=INK, lw=1)
        for place, row in enumerate(rows):
            if row.ratio is None:
                continue
            colour = STATUS_COLOURS[row.status]
            if row.ratio_low is not None and row.ratio_high is not None:
                axes.hlines(place, row.ratio_low, row.ratio_high, color=colour, lw=2)
            ratio = ratio_cell(row.ratio, row.ratio_low, row.ratio_high)
            tip = f"{row.name}: {ratio}, {row.rate_rps:.1f} req/s"
            draw_point(axes, row.ratio, place, colour, tip, hollow=row.status != "winner")
        predicted = [row.predicted_rps / fastest.predicted_rps for row in rows]
        axes.plot(predicted, range(len(rows)), "x", color=INK, markersize=5)
        axes.set_xlabel("times the rate of the fastest")

    words = {word for name in names for word in name.split()}
    meanings = [text for pattern, text in WORDS.items() if any(re.fullmatch(pattern, word) for word in words)]
    doubtful = any(STATUS_COLOURS[row.status] == ORANGE for row in rows)
    return Chart(
        "What the search measured, in turn",
        draw,
        "In the rounds that both took part in, with 95% intervals; ×: predicted from the costs of the parts, "
        f"which only chooses who races. {'; '.join(meanings)}{'. ' if meanings else ''}Filled: the winner, "
        "the cheapest of those that are as good (blue)."
        + (" Orange: not resolved from the best, or excluded." if doubtful else ""),
        names=names,
        notes=[_fate(row) for row in rows],
    )


def _fate(row: TuneRow) -> str:
    """What became of it; at length, a table tells it."""
    return "reference" if row.incumbent and row.status == "slower" else fate(row)


def _distinct(rows: Sequence[TuneRow]) -> list[str]:
    """The names without what all have in common."""
    words = [row.name.split() for row in rows]
    common = set.intersection(*map(set, words)) if len(rows) > 1 else set()
    return [
        " ".join(word for word in own if word not in common) or row.name
        for row, own in zip(rows, words, strict=True)
    ]


def capacity(name: str, result: CapacityResult) -> list[Chart]:
    """The share of late requests with the fit, and latencies, over the offered rate."""
    metrics = result.metrics
    probes = [row for row in result.rows if row.offered_rps is not None]
    rates = [row.offered_rps for row in probes if row.offered_rps is not None]
    shown = [*rates, *filter(None, (metrics.low_rps, metrics.high_rps))] or [1.0]
    top = min(1.0, max(0.2, 4 * metrics.miss))

    def set_rates(axes: Axes) -> None:
        axes.set_xlim(min(shown) / 1.05, max(shown) * 1.05)
        axes.set_xlabel("offered rate, requests/s")

    def draw_late(axes: Axes) -> None:
        axes.axhline(metrics.miss, color=INK, lw=1, ls="--")
        if result.curve is not None:
            grid = np.geomspace(min(shown), max(shown), 200)
            share = result.curve.shares(grid)
            axes.plot(grid[share <= top], share[share <= top], color=INK, lw=1.8)
        for rate, row in zip(rates, probes, strict=True):
            if row.missed is not None:
                draw_point(axes, rate, min(top, row.missed), GREY, hollow=bool(row.void))
        if metrics.capacity_rps is not None and metrics.low_rps is not None and metrics.high_rps is not None:
            colour = BLUE if metrics.status == "resolved" else ORANGE
            axes.axvline(metrics.capacity_rps, color=colour, lw=1)
            axes.hlines(metrics.miss, metrics.low_rps, metrics.high_rps, color=colour, lw=2)
            draw_point(axes, metrics.capacity_rps, metrics.miss, colour)
        set_shares(axes.yaxis, top)
        set_rates(axes)
        axes.set_ylabel("requests that were late or failed")

    def draw_latencies(axes: Axes) -> None:
        axes.axhline(metrics.slo_ms, color=INK, lw=1, ls="--")
        levels = [metrics.slo_ms]
        for percent, colour in (("p50", GREY), ("p95", BLUE), ("p99", INK)):
            latencies = [getattr(row, f"{percent}_ms") for row in probes]
            known = [(rate, ms) for rate, ms in zip(rates, latencies, strict=True) if ms]
            levels += [ms for _, ms in known]
            if known:
                axes.plot(*zip(*known, strict=True), "o", color=colour, markersize=6, label=percent)
        set_rates(axes)
        set_logarithmic(axes.yaxis, min(levels) / 1.3, max(levels) * 1.3)
        axes.set_ylabel("latency, ms, logarithmic")

    return [
        Chart(
            f"{name}: {100 * (1 - metrics.miss):.4g}% within {metrics.slo_ms:g} ms, {metrics.status}",
            draw_late,
            "Random arrivals. Dashed: the share that may be late; on it, the capacity with its interval. "
            f"Black: the fit. A point per probe, those above {top:.0%} on the upper edge. Hollow: the load "
            "generator was late, so that the probe does not count.",
        ),
        Chart(f"{name}: latency by offered rate", draw_latencies, "A point per probe."),
    ]
