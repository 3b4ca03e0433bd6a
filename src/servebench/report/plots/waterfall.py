"""Plot of all configurations: the losses from bound to bound."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from servebench.report.bounds import BOUND_NAMES, Bound
from servebench.report.plots.style import COLOURS, MAX_COLUMNS


def waterfall(bounds_by_name: Mapping[str, Sequence[Bound]]) -> Figure:
    """A panel per configuration with the loss from each bound to the next.

    The axis is logarithmic, so that equal shares have equal lengths.
    """
    shown = [
        name
        for name in BOUND_NAMES
        if any(bound.name == name for bounds in bounds_by_name.values() for bound in bounds)
    ]
    columns = min(MAX_COLUMNS, len(bounds_by_name))
    rows = -(-len(bounds_by_name) // columns)
    figure, grid = plt.subplots(
        rows,
        columns,
        figsize=(3.6 * columns + 1.2, 2.7 * rows + 0.5),
        sharex=True,
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    panels = list(grid.flat)
    for axes, (name, bounds) in zip(panels, bounds_by_name.items(), strict=False):
        _draw_bounds(axes, bounds, shown)
        axes.set_title(name, fontsize=10)
    for axes in panels[len(bounds_by_name) :]:
        axes.set_visible(False)
    for axes in panels[max(0, len(bounds_by_name) - columns) : len(bounds_by_name)]:
        axes.tick_params(labelbottom=True)
    rates = [bound.rate_rps for bounds in bounds_by_name.values() for bound in bounds]
    first = panels[0]
    first.set_xscale("log")
    decades = math.log10(max(rates) / min(rates))
    # Margins for the numbers on either side, whose width does not depend on the length of the axis.
    first.set_xlim(min(rates) / 10 ** max(0.35, 0.22 * decades), max(rates) * 10 ** max(0.4, 0.22 * decades))
    first.xaxis.set_major_locator(LogLocator(base=10, subs=(1.0, 3.0) if decades < 2.5 else (1.0,)))
    first.xaxis.set_minor_locator(NullLocator())
    first.xaxis.set_major_formatter(FuncFormatter(lambda rate, _: f"{rate:,.0f}"))
    first.set_ylim(len(shown) - 0.4, -0.6)
    figure.supxlabel(
        "images/s = requests/s, logarithmic; × share of the bound above; hatched: lost", fontsize=10
    )
    return figure


def _draw_bounds(axes: Axes, bounds: Sequence[Bound], shown: Sequence[str]) -> None:
    """Draw ``bounds`` from top to bottom, in the rows of the names ``shown``."""
    above: Bound | None = None
    for bound in bounds:
        row = shown.index(bound.name)
        if above is not None:
            low, high = sorted((bound.rate_rps, above.rate_rps))
            axes.barh(
                row,
                high - low,
                left=low,
                height=0.5,
                facecolor="white",
                edgecolor=COLOURS[2],
                hatch="////",
                linewidth=0.8,
            )
            axes.plot([above.rate_rps] * 2, [shown.index(above.name), row], color="0.6", lw=0.8, zorder=0)
        axes.plot([bound.rate_rps] * 2, [row - 0.32, row + 0.32], color=COLOURS[0], lw=2.5)
        if bound.low_rps is not None and bound.high_rps is not None:
            axes.plot([bound.low_rps, bound.high_rps], [row, row], color=COLOURS[0], lw=1)
        axes.annotate(
            f"{bound.rate_rps:,.0f}" if bound.rate_rps >= 100 else f"{bound.rate_rps:.1f}",
            (min(bound.rate_rps, bound.lowest_rps), row),
            (-5, 0),
            textcoords="offset points",
            ha="right",
            va="center",
            fontsize=9,
            weight="bold",
        )
        if bound.share is not None and above is not None:
            axes.annotate(
                f"×{bound.share:.2f}",
                (max(above.rate_rps, bound.highest_rps), row),
                (5, 0),
                textcoords="offset points",
                ha="left",
                va="center",
                fontsize=9,
            )
        above = bound
    axes.set_yticks(range(len(shown)), list(shown))
    axes.grid(axis="x", alpha=0.3)
