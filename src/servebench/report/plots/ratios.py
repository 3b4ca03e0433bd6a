"""Plot of the comparison: ratio of each configuration's rate to the reference's."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from servebench.benchmark.rows import ComparisonRow
from servebench.report.plots.style import COLOURS
from servebench.system.tables import pluralise


def ratios(rows: Sequence[ComparisonRow], reference: str) -> Figure:
    """A point per configuration with its simultaneous interval, at one load, on a logarithmic axis."""
    figure, axes = plt.subplots(figsize=(9, 0.5 * len(rows) + 1.4), layout="constrained")
    shown = [row for row in rows if row.ratio is not None]
    for position, row in enumerate(shown):
        assert row.ratio is not None
        if row.ratio_low is not None and row.ratio_high is not None:
            axes.plot([row.ratio_low, row.ratio_high], [position, position], color=COLOURS[0], lw=1.5)
        fill = COLOURS[1] if row.rank == 1 else "white"
        axes.plot(row.ratio, position, "o", color=COLOURS[1], markerfacecolor=fill, markersize=8)
        interval = "" if row.ratio_low is None else f" ({row.ratio_low:.2f} to {row.ratio_high:.2f})"
        axes.annotate(
            f"×{row.ratio:.2f}{interval}, {row.rate_rps:,.1f} req/s, rank {row.rank}",
            (max(row.ratio, row.ratio_high or row.ratio), position),
            (9, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
        )
    axes.axvline(1, color="0.6", lw=1)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    highest = max((row.ratio_high or row.ratio or 1.0) for row in shown) if shown else 1.0
    lowest = min((row.ratio_low or row.ratio or 1.0) for row in shown) if shown else 1.0
    axes.set_xlim(lowest / 1.3, highest * (highest / lowest) ** 0.9 * 2)
    axes.set_yticks(range(len(shown)), [row.experiment for row in shown])
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.set_xlabel(
        f"times the rate of {reference} at {pluralise(rows[0].users, 'user')}, 95% intervals (filled: rank 1)"
    )
    axes.grid(axis="x", alpha=0.3)
    return figure
