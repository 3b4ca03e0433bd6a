"""Charts of a capacity: which share of the requests misses the objective, and how latency grows."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from litmeter.benchmark.capacity import CapacityMetrics, CapacityResult, ProbeRow, is_steady
from litmeter.report.charts.chart import BLUE, GREY, INK, ORANGE, Axis, Chart, Mark
from litmeter.stats.capacity import ERRORS

HOLLOW = "Hollow: the machine was slow for a moment; left out of the fit where the others suffice."
BEYOND = 1.05
"""The axis reaches this factor beyond the lowest and the highest rate."""


def capacity(name: str, result: CapacityResult) -> list[Chart]:
    """Over the offered rate: the share of late requests with the fit, latencies, and what came in time."""
    counted = sorted((row for row in result.rows if not row.void_reason), key=lambda row: _rate(row, result))
    ends = [rate for rate in (result.metrics.low_rps, result.metrics.high_rps) if rate]
    rates = [*(_rate(row, result) for row in counted), *ends] or [1.0]
    axis = Axis(
        "offered rate at the median peak, requests/s",
        low=min(rates) / BEYOND,
        high=max(rates) * BEYOND,
    )
    return [
        _late(name, result, counted, axis),
        _latencies(name, result, counted, axis),
        _goodput(name, counted),
    ]


def _rate(row: ProbeRow, result: CapacityResult) -> float:
    """The probe's rate as it would be at the median peak."""
    return row.rate_rps / row.peak_rps * (result.metrics.peak_rps or row.peak_rps)


def _late(name: str, result: CapacityResult, rows: Sequence[ProbeRow], axis: Axis) -> Chart:
    metrics = result.metrics
    top = min(1.0, max(0.2, 4 * metrics.miss))
    rates = [_rate(row, result) for row in rows]
    colour = BLUE if metrics.status == "resolved" else ORANGE
    marks = [Mark("across", y=[metrics.miss], dashed=True), *_fit(result, rates, top)]
    marks += [
        Mark(
            "range",
            x=rates,
            y=[min(top, max(0.0, row.missed - 2 * row.missed_error)) for row in rows],
            y2=[min(top, row.missed + 2 * row.missed_error) for row in rows],
            colour=GREY,
        ),
        *_points(rows, rates, top),
    ]
    if metrics.capacity_rps is not None and metrics.low_rps is not None and metrics.high_rps is not None:
        marks += [
            Mark("along", x=[metrics.capacity_rps], colour=colour),
            Mark("range", x=[metrics.low_rps], x2=[metrics.high_rps], y=[metrics.miss], colour=colour),
            Mark("point", x=[metrics.capacity_rps], y=[metrics.miss], colour=colour),
        ]
    return Chart(
        f"{name}: {_found(metrics)}, {100 * (1 - metrics.miss):.4g}% within {metrics.slo_ms:g} ms",
        x=axis,
        y=Axis("requests that were late or failed", low=0.0, high=top, percent=True),
        marks=marks,
        note="Random arrivals. Dashed: the share that may be late; on it, the capacity with its interval. "
        "Black: the fit; band: moved to either end of the interval. A point per probe, "
        f"± 2 standard errors, those above {top:.0%} on the upper edge."
        + ("" if all(is_steady(row.slowest_moment) for row in rows) else f" {HOLLOW}"),
    )


def _points(rows: Sequence[ProbeRow], rates: Sequence[float], top: float) -> list[Mark]:
    """The probes, hollow where the machine was slow for a moment."""
    marks = []
    for steady in (True, False):
        own = [
            (rate, row)
            for rate, row in zip(rates, rows, strict=True)
            if is_steady(row.slowest_moment) is steady
        ]
        mark = Mark(
            "point",
            x=[rate for rate, _ in own],
            y=[min(top, row.missed) for _, row in own],
            texts=[f"{rate:.1f} req/s: {row.missed:.2%} late" for rate, row in own],
            colour=GREY,
            hollow=not steady,
        )
        marks += [mark] if own else []
    return marks


def _found(metrics: CapacityMetrics) -> str:
    """What the search has found, for a title."""
    if metrics.status == "slo_unreachable":
        return "no rate keeps the objective"
    if metrics.capacity_rps is None:
        known = metrics.status == "above_range" and metrics.low_rps is not None
        return f"at least {metrics.low_rps:.0f} requests/s" if known else "capacity not resolved"
    rate = f"{metrics.capacity_rps:.0f} requests/s ({metrics.low_rps:.0f} to {metrics.high_rps:.0f})"
    return f"capacity {rate}" if metrics.status == "resolved" else f"capacity not resolved, near {rate}"


def _fit(result: CapacityResult, rates: Sequence[float], top: float) -> list[Mark]:
    """The fitted share of late requests, and the same curve through either end of the capacity's interval."""
    peak_rps, curve = result.metrics.peak_rps, result.curve
    if curve is None or not peak_rps or not rates:
        return []
    loads = np.linspace(math.log(min(rates) / peak_rps), math.log(max(rates) / peak_rps), 200)
    aside = ERRORS * curve.error
    low, share, high = (curve.shares(loads + moved)[0] for moved in (-aside, 0.0, aside))
    grid = peak_rps * np.exp(loads)
    seen = share <= top
    return [
        Mark("band", x=grid.tolist(), y=np.minimum(low, top).tolist(), y2=np.minimum(high, top).tolist()),
        Mark("line", x=grid[seen].tolist(), y=share[seen].tolist()),
    ]


def _latencies(name: str, result: CapacityResult, rows: Sequence[ProbeRow], axis: Axis) -> Chart:
    metrics = result.metrics
    marks = [Mark("across", y=[metrics.slo_ms], dashed=True)]
    shown = [metrics.slo_ms]
    for percent, colour in (("p50", GREY), ("p95", BLUE), ("p99", INK)):
        points = [(_rate(row, result), ms) for row in rows if (ms := getattr(row, f"{percent}_ms"))]
        shown += [ms for _, ms in points]
        if points:
            x, y = [rate for rate, _ in points], [ms for _, ms in points]
            texts = [f"{rate:.1f} req/s: {percent} {ms:.0f} ms" for rate, ms in points]
            marks.append(Mark("point", x=x, y=y, texts=texts, colour=colour, name=percent))
    below = {"p50": metrics.p50_ms, "p95": metrics.p95_ms, "p99": metrics.p99_ms, "p99.9": metrics.p999_ms}
    known = [f"{percent} {ms:.0f}" for percent, ms in below.items() if ms is not None]
    return Chart(
        f"{name}: latency by offered rate",
        x=axis,
        y=Axis("latency, ms, logarithmic", log=True, low=min(shown) / 1.3, high=max(shown) * 1.3),
        marks=marks,
        note="A point per probe." + (f" Just below the capacity: {', '.join(known)} ms." if known else ""),
    )


def _goodput(name: str, rows: Sequence[ProbeRow]) -> Chart:
    ordered = sorted(rows, key=lambda row: row.rate_rps)
    x, y = [row.rate_rps for row in ordered], [row.goodput_rps for row in ordered]
    bottom, top = min([*x, *y], default=0.0) / BEYOND, max([*x, *y], default=1.0) * BEYOND
    return Chart(
        f"{name}: answered in time, by offered rate",
        x=Axis("offered rate as it was, requests/s", low=bottom, high=top),
        y=Axis("in time, requests/s", low=bottom, high=top),
        marks=[
            Mark("line", x=[bottom, top], y=[bottom, top], colour=GREY, dashed=True),
            Mark("point", x=x, y=y, colour=BLUE),
        ],
        note="A point per probe. Dashed: all of them in time.",
    )
