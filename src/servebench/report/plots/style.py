"""Style and helpers that the plots share; markers and hatching make them readable without colour."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter

from servebench.benchmark.rows import LevelRow
from servebench.report.results import Result
from servebench.system.files import atomic_write

MARKERS = "osD^vPX*<>hp"
STYLES = ("-", "--", "-.", ":")
COLOURS = ("#111111", "#0b5fa5", "#c1440e", "#2e7d32", "#7b3fa0", "#8a6d00", "#5a5a5a")
HATCHES = ("", "///", "...", "xxx", "\\\\\\", "++", "ooo")
DPI = 110
MAX_COLUMNS = 4
"""Panels side by side, at most."""
USERS = "users (requests in flight at once)"
INVALID_LEGEND = "hollow: not valid"


def save(figure: Figure, path: Path) -> None:
    """Write ``figure`` without matplotlib's version, so that the same results give the same bytes."""
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=DPI, metadata={"Software": None})
    plt.close(figure)


def line_style(number: int) -> dict[str, Any]:
    """Marker, line and colour of the configuration of index ``number``."""
    return {
        "marker": MARKERS[number % len(MARKERS)],
        "linestyle": STYLES[number % len(STYLES)],
        "color": COLOURS[number % len(COLOURS)],
    }


def plot_levels(
    axes: Axes, xs: Sequence[float], ys: Sequence[float], levels: Sequence[LevelRow], **options: Any
) -> None:
    """Plot a line with a filled marker at each level, hollow where the level is not valid."""
    axes.plot(xs, ys, **options)
    invalid = [index for index, level in enumerate(levels) if not level.valid]
    axes.plot(
        [xs[index] for index in invalid],
        [ys[index] for index in invalid],
        **{**options, "linestyle": "none", "markerfacecolor": "white", "label": None, "zorder": 3},
    )


def any_invalid(results: Sequence[Result]) -> bool:
    """Whether a level of any configuration is not valid."""
    return any(not level.valid for result in results for level in result.levels)


def set_log2_axes(axes: Axes, x_label: str, y_label: str, ticks: Sequence[int]) -> None:
    """Set up a logarithmic x axis with ``ticks``, and a linear y axis from zero."""
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(list(ticks)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.set_ylim(bottom=0)
    axes.set_xlim(ticks[0] / 1.3, ticks[-1] * 1.3)
    axes.grid(alpha=0.3)
