"""Picture of a capacity: which share of the requests misses the objective, and how latency grows."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from servebench.benchmark.capacity_rows import CapacityMetrics, CapacityResult, ProbeRow
from servebench.report.plots.style import COLOURS, line_style
from servebench.stats.capacity import Curve

INK, BLUE, RED = COLOURS[0], COLOURS[1], COLOURS[2]
MARGIN = 0.05
"""Of the axis beyond the lowest and the highest rate."""


def capacity(name: str, result: CapacityResult) -> Figure:
    """The share of late requests over the offered rate with the fit, and latencies and goodput below it."""
    figure, (late, latency) = plt.subplots(
        2, 1, figsize=(9, 7), sharex=True, layout="constrained", height_ratios=(3, 2)
    )
    metrics = result.metrics
    counted = [row for row in result.rows if not row.void_reason]
    _draw_share(late, metrics, counted, result.curve)
    _draw_latencies(latency, metrics, counted)
    late.set_title(f"{name}: {100 * (1 - metrics.miss):.4g}% of the requests within {metrics.slo_ms:g} ms")
    latency.set_xlabel("offered rate, requests/s at random times (scaled to the median peak)")
    return figure


def _scaled(row: ProbeRow, metrics: CapacityMetrics) -> float:
    """The probe's rate as it would be at the median peak."""
    return row.rate_rps / row.peak_rps * (metrics.peak_rps or row.peak_rps)


def _draw_share(axes: Axes, metrics: CapacityMetrics, rows: Sequence[ProbeRow], curve: Curve | None) -> None:
    rates = [_scaled(row, metrics) for row in rows]
    axes.errorbar(
        rates,
        [row.missed for row in rows],
        yerr=[2 * row.missed_error for row in rows],
        fmt="o",
        color=BLUE,
        capsize=2,
        label="a probe, ± 2 standard errors",
    )
    if curve is not None and metrics.peak_rps:
        loads = np.linspace(
            math.log(min(rates) / metrics.peak_rps), math.log(max(rates) / metrics.peak_rps), 200
        )
        share, low, high = curve.shares(loads)
        grid = metrics.peak_rps * np.exp(loads)
        axes.plot(grid, share, color=INK, lw=1.5, label="fit, with its interval")
        axes.fill_between(grid, low, high, color=INK, alpha=0.12, lw=0)
    axes.axhline(metrics.miss, color=RED, lw=1, ls="--")
    axes.annotate(
        f"allowed: {metrics.miss:.0%}",
        (0.01, metrics.miss),
        (2, 3),
        color=RED,
        xycoords=axes.get_yaxis_transform(),
        textcoords="offset points",
    )
    if metrics.capacity_rps is not None and metrics.low_rps is not None and metrics.high_rps is not None:
        axes.axvspan(metrics.low_rps, metrics.high_rps, color=BLUE, alpha=0.15, lw=0)
        axes.axvline(metrics.capacity_rps, color=BLUE, lw=1.5)
        axes.annotate(
            f"capacity {metrics.capacity_rps:.0f}/s\n({metrics.low_rps:.0f} to {metrics.high_rps:.0f})",
            (metrics.capacity_rps, 0.97),
            (-6, 0),
            color=BLUE,
            ha="right",
            va="top",
            xycoords=axes.get_xaxis_transform(),
            textcoords="offset points",
        )
    axes.set_ylim(0, min(1.0, max(0.2, 4 * metrics.miss)))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_ylabel("requests that were late or failed")
    axes.legend(loc="center left", frameon=False)
    axes.grid(alpha=0.3)


def _draw_latencies(axes: Axes, metrics: CapacityMetrics, rows: Sequence[ProbeRow]) -> None:
    ordered = sorted(rows, key=lambda row: _scaled(row, metrics))
    rates = [_scaled(row, metrics) for row in ordered]
    for number, percent in enumerate(("p50", "p95", "p99")):
        values = [getattr(row, f"{percent}_ms") for row in ordered]
        points = [(rate, ms) for rate, ms in zip(rates, values, strict=True) if ms is not None]
        if points:
            axes.plot(*zip(*points, strict=True), label=percent, **line_style(number))
    axes.axhline(metrics.slo_ms, color=RED, lw=1, ls="--")
    below = {"p50": metrics.p50_ms, "p95": metrics.p95_ms, "p99": metrics.p99_ms, "p99.9": metrics.p999_ms}
    known = [f"{percent} {ms:.0f}" for percent, ms in below.items() if ms is not None]
    if known:
        axes.set_title(f"just below the capacity: {', '.join(known)} ms", fontsize=10)
    axes.set_yscale("log")
    axes.set_ylabel("latency, ms")
    if ordered:
        axes.legend(loc="upper left", frameon=False, ncols=3)
    axes.grid(alpha=0.3)
    goodput = axes.twinx()
    goodput.plot(rates, [row.goodput_rps for row in ordered], color=COLOURS[3], ls=":", marker="x")
    goodput.set_ylabel("in time, requests/s (x)", color=COLOURS[3])
    goodput.set_ylim(bottom=0)
