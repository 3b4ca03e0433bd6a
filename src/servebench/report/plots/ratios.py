"""Plot of the comparison: ratio of each configuration's rate to the reference's."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from servebench.benchmark.rows import ComparisonRow
from servebench.report.plots.style import COLOURS
from servebench.system.tables import pluralise

BEYOND_POINTS = 2.0
"""The axis reaches this factor beyond the lowest and the highest point."""


def ratios(rows: Sequence[ComparisonRow], reference: str) -> Figure:
    """A point per configuration with its simultaneous interval, at one load, on a logarithmic axis."""
    figure, axes = plt.subplots(figsize=(10, 0.5 * len(rows) + 1.4), layout="constrained")
    shown = [row for row in rows if row.ratio]
    points = [row.ratio for row in rows if row.ratio]
    for place, (row, point) in enumerate(zip(shown, points, strict=True)):
        if row.ratio_low is not None and row.ratio_high is not None:
            axes.plot([row.ratio_low, row.ratio_high], [place, place], color=COLOURS[0], lw=1.5)
        filled = COLOURS[1] if row.rank == 1 else "white"
        axes.plot(point, place, "o", color=COLOURS[1], markerfacecolor=filled, markersize=8)
        alone = row.ratio_low is None or row.experiment == reference
        interval = "" if alone else f" ({row.ratio_low:.2f} to {row.ratio_high:.2f})"
        axes.text(
            1.01,
            place,
            f"×{point:.2f}{interval}, {row.rate_rps:,.1f} req/s, "
            + (f"rank {row.rank}" if row.rank else "not ranked"),
            transform=axes.get_yaxis_transform(),
            va="center",
            fontsize=9,
        )
    axes.axvline(1, color="0.6", lw=1)
    axes.set_xscale("log")
    # Wide intervals run out of the picture: the points are what is compared.
    axes.set_xlim(min(points, default=1.0) / BEYOND_POINTS, max(points, default=1.0) * BEYOND_POINTS)
    axes.xaxis.set_major_locator(LogLocator(base=10, subs=(1.0, 3.0)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_yticks(range(len(shown)), [row.experiment for row in shown])
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.set_xlabel(
        f"times the rate of {reference} at {pluralise(rows[0].users, 'user')}, 95% intervals (filled: rank 1)"
    )
    axes.grid(axis="x", alpha=0.3)
    return figure
