"""The charts of the results: the comparison, stages of a request, a search, a capacity."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from litmeter.measure.capacity import CapacityResult
from litmeter.measure.rows import ComparisonRow
from litmeter.params import CANDIDATE
from litmeter.paths import PICTURES_FOLDER
from litmeter.report.drawing import (
    BLUE,
    GREY,
    INK,
    ORANGE,
    PURPLE,
    SEQUENCE,
    Chart,
    draw_point,
    draw_ratio,
    save_png,
    set_logarithmic,
    set_shares,
)
from litmeter.report.results import Result, fastest_first
from litmeter.system.tables import number_cell, pluralise
from litmeter.tune.rows import TuneRow, fate, ratio_cell

BEYOND, FARTHEST = 1.6, 4.0
"""The axis of ratios reaches this factor beyond the points, and up to FARTHEST for the intervals: one that is
wider runs out."""


def draw_pictures(results: Sequence[Result], reference: str) -> None:
    """Draw those in assets/results/, which the results' page shows; remove others."""
    pictures = {"comparison": comparison(results, reference), "stages": stages(results)}
    for name, chart in pictures.items():
        save_png(PICTURES_FOLDER / f"{name}.png", [chart])
    for path in PICTURES_FOLDER.glob("*.png"):
        if path.stem not in pictures:
            path.unlink()


def comparison(results: Sequence[Result], reference: str) -> Chart:
    """A row per configuration, fastest first: its ratio to the reference with the simultaneous interval."""
    rows = fastest_first([result.compared for result in results])
    ratios = [row.ratio for row in rows if row.ratio] or [1.0]
    ends = [end for row in rows if row.ratio for end in (row.ratio_low, row.ratio_high) if end]
    low = max(min([min(ratios) / BEYOND, *ends]), min(ratios) / FARTHEST)
    high = min(max([max(ratios) * BEYOND, *ends]), max(ratios) * FARTHEST)
    metrics = {result.name: result.metrics for result in results}

    def draw(axes: Axes) -> None:
        axes.axvline(1.0, color=INK, lw=1)
        for place, row in enumerate(rows):
            colour = BLUE if row.rank == 1 else PURPLE if row.experiment == CANDIDATE else GREY
            tip = (
                f"{row.experiment}: {number_cell(row.rate_rps, 1)} req/s in {pluralise(row.rounds, 'round')}"
            )
            ratio = (row.ratio, row.ratio_low, row.ratio_high)
            draw_ratio(axes, place, ratio, colour if row.rank else ORANGE, tip, hollow=not row.rank)
        set_logarithmic(axes.xaxis, low, high)
        axes.set_xlabel(f"times {reference}")

    def note(row: ComparisonRow) -> str:
        text = ratio_cell(row.ratio, row.ratio_low, row.ratio_high)
        if row.ratio is None:
            below = row.ratio_high and f" in a round, below {row.ratio_high:.2f}"
            text = f"no answer{below or ''}"
        elif row.earlier:
            text += f", earlier, {row.earlier}"
        own = metrics[row.experiment]
        return f"{text}\n{number_cell(own['ready_s'], 1)} s to start, {number_cell(own['memory_mib'], 0)} MiB"

    cut = any(end < low or end > high for end in ends)
    return Chart(
        "Rates of all configurations, measured in turn",
        draw,
        f"At {pluralise(rows[0].users, 'user')}, with 95% intervals, on a logarithmic axis. Blue: the "
        "fastest, and what cannot be told from it. Purple: the candidate, if it is not blue."
        + (" Hollow: of an earlier run, and not ranked." if any(row.earlier for row in rows) else "")
        + (" An interval that ends at the edge goes on beyond it." if cut else ""),
        names=[row.experiment for row in rows],
        notes=[note(row) for row in rows],
    )


def stages(results: Sequence[Result]) -> Chart:
    """A bar per configuration: the share of each stage in a request's mean time in the comparison."""
    times = {result.name: own for result in results if sum((own := result.stage_ms).values()) > 0}
    names = list(dict.fromkeys(stage for own in times.values() for stage in own))

    def draw(axes: Axes) -> None:
        begins = np.zeros(len(times))
        outline: dict[str, Any] = {"edgecolor": INK, "linewidth": 0.3}  # some colours are pale
        for stage, colour in zip(names, cycle(SEQUENCE), strict=False):
            shares = np.array([own.get(stage, 0.0) / sum(own.values()) for own in times.values()])
            places = range(len(times))
            bars = axes.barh(places, shares, left=begins, height=0.6, color=colour, label=stage, **outline)
            for bar, (name, own) in zip(bars, times.items(), strict=True):
                bar.set_gid(f"{name}: {stage}, {own.get(stage, 0.0):,.4g} ms")
            begins += shares
        set_shares(axes.xaxis)
        axes.set_xlabel("share of a request's mean time")

    return Chart(
        "Where the time of a request goes",
        draw,
        "In the comparison, as shares of the times at the right. batch_wait: until all of its batch is "
        "decoded. LitServe's own transport waits for more requests in the queue.",
        names=list(times),
        notes=[f"{sum(own.values()):,.0f} ms" for own in times.values()],
    )


STATUS_COLOURS = {"winner": BLUE, "equal": BLUE, "slower": GREY, "not resolved": ORANGE, "excluded": ORANGE}
WORDS = {
    r"\d+x\d+": "2x1: workers x threads",
    r"b\d+": "b4: batches of up to 4",
    r"\d+ms": "0ms: the timeout of a batch",
    "keep": "keep: freed memory kept",
}
"""Patterns of a configuration's name, and what the chart's note says of it."""


def tune(rows: Sequence[TuneRow]) -> Chart:
    """A row per configuration that raced: its rate over the fastest one's in the rounds of both, and as
    predicted."""
    fastest = next((row for row in rows if row.ratio_low == row.ratio_high == 1.0), rows[0])
    words = [row.name.split() for row in rows]
    common = set(words[0]).intersection(*words) if len(rows) > 1 else set()
    names = [
        ("serve: " if row.incumbent else "") + (" ".join(one for one in own if one not in common) or row.name)
        for row, own in zip(rows, words, strict=True)
    ]

    def draw(axes: Axes) -> None:
        axes.axvline(1.0, color=INK, lw=1)
        for place, row in enumerate(rows):
            ratio = (row.ratio, row.ratio_low, row.ratio_high)
            tip = f"{row.name}: {ratio_cell(*ratio)}, {number_cell(row.rate_rps, 1)} req/s"
            draw_ratio(axes, place, ratio, STATUS_COLOURS[row.status], tip, hollow=row.status != "winner")
        predicted = [row.predicted_rps / fastest.predicted_rps for row in rows]
        axes.plot(predicted, range(len(rows)), "x", color=INK, markersize=5)
        axes.set_xlabel("times the rate of the fastest")

    shown = {word for name in names for word in name.split()}
    meanings = [text for pattern, text in WORDS.items() if any(re.fullmatch(pattern, word) for word in shown)]
    doubtful = any(STATUS_COLOURS[row.status] == ORANGE for row in rows)
    return Chart(
        "What the search measured, in turn",
        draw,
        "In the rounds that both took part in, with 95% intervals; ×: predicted from the costs of the parts, "
        f"which only chooses who races. {'; '.join(meanings)}{'. ' if meanings else ''}Filled: the winner, "
        "the cheapest of those that are as good (blue)."
        + (" Orange: not resolved from the best, or excluded." if doubtful else ""),
        names=names,
        notes=["reference" if row.incumbent and row.status == "slower" else fate(row) for row in rows],
    )


def capacity(name: str, result: CapacityResult) -> list[Chart]:
    """The share of late requests with the fit, and latencies, over the offered rate."""
    metrics = result.metrics
    offered = [(row.offered_rps, row) for row in result.rows if row.offered_rps is not None]
    rates, probes = [rate for rate, _ in offered], [row for _, row in offered]
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
