"""Plots of all configurations: latency over throughput, and batch sizes by concurrency."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, NullLocator, ScalarFormatter

from servebench.report.plots.style import (
    HATCHES,
    INVALID_LEGEND,
    MAX_COLUMNS,
    USERS,
    any_invalid,
    line_style,
    plot_levels,
)
from servebench.report.results import Result


def latency_curves(results: Sequence[Result], slo_ms: float) -> Figure:
    """p95 latency over throughput, a point per level with its users; levels without a p95 are left out."""
    figure, axes = plt.subplots(figsize=(8.5, 5.2), layout="constrained")
    axes.set_yscale("log")
    shown = [slo_ms, *(level.p95_ms for result in results for level in result.levels if level.p95_ms)]
    axes.set_ylim(min(shown) / 1.3, max(shown) * 1.3)
    for number, result in enumerate(results):
        known = [(level, level.p95_ms) for level in result.levels if level.p95_ms is not None]
        levels, latencies = [level for level, _ in known], [p95_ms for _, p95_ms in known]
        rates = [level.throughput_rps for level in levels]
        plot_levels(axes, rates, latencies, levels, **line_style(number), label=result.name)
        for level, p95_ms in known:
            point = (level.throughput_rps, p95_ms)
            axes.annotate(
                f"{level.users}", point, (5, 4), textcoords="offset points", fontsize=8, color="0.3"
            )
    axes.axhline(slo_ms, color="0.4", linewidth=1)
    axes.annotate(
        f"objective {slo_ms:g} ms",
        (0, slo_ms),
        (4, 3),
        textcoords="offset points",
        xycoords=("axes fraction", "data"),
    )
    axes.yaxis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(ScalarFormatter())
    axes.set_xlim(left=0)
    axes.set_xlabel("throughput, requests/s")
    axes.set_ylabel("p95 latency, ms (logarithmic)")
    note = f" ({INVALID_LEGEND})" if any_invalid(results) else ""
    axes.set_title(f"Latency over throughput; the numbers are users{note}", fontsize=10)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=4, fontsize=9)
    return figure


def batch_sizes(results: Sequence[Result]) -> Figure:
    """A panel per configuration: the distribution of batch sizes at each level; the mean on top."""
    columns = min(MAX_COLUMNS, len(results))
    rows = -(-len(results) // columns)
    figure, grid = plt.subplots(
        rows,
        columns,
        figsize=(3.2 * columns, 2.6 * rows + 0.8),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    bounds = sorted({row.up_to for result in results for row in result.batches}, key=float)
    for axes in list(grid.flat)[len(results) :]:
        axes.set_visible(False)
    for axes, result in zip(grid.flat, results, strict=False):
        _histograms(axes, result, bounds)
        axes.set_title(result.name, fontsize=10)
        axes.set_ylim(0, 115)
        axes.set_yticks([0, 50, 100])
    handles = [
        Patch(label=f"at most {bound}" if math.isfinite(float(bound)) else "more", **_fill(number))
        for number, bound in enumerate(bounds)
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=7, fontsize=9, frameon=False)
    note = "; *: not valid" if any_invalid(results) else ""
    figure.supxlabel(f"{USERS}; on top: mean batch size{note}", fontsize=10)
    figure.supylabel("share of the batches, %", fontsize=10)
    return figure


def _histograms(axes: Axes, result: Result, bounds: Sequence[str]) -> None:
    """A stacked bar per level, with a part per bucket of batch sizes, in percent of the level's batches."""
    counts = {(row.users, row.up_to): row.batches for row in result.batches}
    positions = range(len(result.levels))
    totals = [sum(counts.get((level.users, bound), 0) for bound in bounds) or 1 for level in result.levels]
    tops = [0.0] * len(result.levels)
    for number, bound in enumerate(bounds):
        percents = [
            100 * counts.get((level.users, bound), 0) / total
            for level, total in zip(result.levels, totals, strict=True)
        ]
        axes.bar(positions, percents, bottom=tops, width=0.6, **_fill(number))
        tops = [top + percent for top, percent in zip(tops, percents, strict=True)]
    for position, level in zip(positions, result.levels, strict=True):
        text = "" if level.batch_size is None else f"{level.batch_size:.1f}"
        top = (position, tops[position])
        axes.annotate(text, top, (0, 2), textcoords="offset points", ha="center", fontsize=9)
    axes.set_xticks(positions, [f"{level.users}{'' if level.valid else '*'}" for level in result.levels])
    axes.set_xlim(-0.6, len(result.levels) - 0.4)


def _fill(number: int) -> dict[str, Any]:
    """Shade and hatching of the bucket of index ``number``."""
    return {
        "facecolor": f"{max(0.3, 1 - 0.06 * number):.2f}",
        "edgecolor": "black",
        "hatch": HATCHES[number % len(HATCHES)],
        "linewidth": 0.8,
    }
