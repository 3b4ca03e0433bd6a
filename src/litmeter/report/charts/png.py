"""Charts as a picture by matplotlib, for assets/."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator, PercentFormatter

from litmeter.report.charts.chart import INK, Axis, Chart, Mark
from litmeter.system.files import atomic_write

DPI = 110
MAX_COLUMNS = 3
"""Panels side by side, at most."""
INK_COLOUR = "#1a1a1a"
WIDTH, HEIGHT, ROW, LINE = 9.0, 4.4, 0.2, 0.17
"""Inches of a chart, of a row where it has rows, and of a line of text in it."""
LETTERS, NARROW_LETTERS = 110, 52
"""Of a line of a title or a note, in a picture of one panel and of several."""


def save(path: Path, charts: Sequence[Chart]) -> None:
    """Draw the charts side by side, without matplotlib's version: the same results give the same bytes."""
    figure = draw(charts)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=DPI, metadata={"Software": None})
    plt.close(figure)


def draw(charts: Sequence[Chart]) -> Figure:
    """A picture of all ``charts``, each in a panel of its own."""
    columns = min(MAX_COLUMNS, len(charts))
    lines = -(-len(charts) // columns)
    width = WIDTH if columns == 1 else 5.4 * columns
    height = lines * max(_height(chart) for chart in charts)
    figure, grid = plt.subplots(
        lines, columns, figsize=(width, height), squeeze=False, layout="constrained", facecolor="white"
    )
    for axes in list(grid.flat)[len(charts) :]:
        axes.set_visible(False)
    for axes, chart in zip(grid.flat, charts, strict=False):
        _draw_chart(axes, chart, LETTERS if columns == 1 else NARROW_LETTERS)
    return figure


def _height(chart: Chart) -> float:
    lines = max((note.count("\n") for note in chart.y.notes), default=0) + 1
    return (ROW + LINE * lines) * len(chart.y.names) + 1.4 if chart.y.names else HEIGHT


def _draw_chart(axes: Axes, chart: Chart, wide: int) -> None:
    for mark in (mark for mark in chart.marks if mark.x or mark.y):
        DRAW[mark.kind](axes, mark, _places(chart.y, mark.y))
    axes.set_title(fill(chart.title, wide), loc="left", fontsize=11)
    _set_axis(axes, "x", chart.x)
    if chart.note:
        axes.set_xlabel(f"{chart.x.title}\n\n{fill(chart.note, wide)}", fontsize=9)
    if chart.y.names:
        _set_rows(axes, chart.y)
    else:
        _set_axis(axes, "y", chart.y)
    axes.grid(axis="x" if chart.y.names else "both", alpha=0.25, color=INK_COLOUR)
    axes.set_axisbelow(True)
    for side in axes.spines.values():
        side.set_visible(False)
    axes.tick_params(length=0)
    handles, labels = axes.get_legend_handles_labels()
    if labels:
        figure = axes.get_figure(root=True)
        assert figure is not None
        figure.legend(handles, labels, fontsize=9, frameon=False, ncols=4, loc="outside lower center")


def _set_axis(axes: Axes, which: str, axis: Axis) -> None:
    ruler = getattr(axes, f"{which}axis")
    if axis.log:
        getattr(axes, f"set_{which}scale")("log")
    getattr(axes, f"set_{which}lim")(axis.low, axis.high)
    if axis.places:
        ruler.set_major_locator(FixedLocator(list(axis.places)))
    ruler.set_minor_locator(NullLocator())
    numbers = FuncFormatter(lambda value, _: f"{value:,.10g}")
    ruler.set_major_formatter(PercentFormatter(1.0) if axis.percent else numbers)
    getattr(axes, f"set_{which}label")(axis.title)


def _set_rows(axes: Axes, axis: Axis) -> None:
    axes.set_yticks(range(len(axis.names)), list(axis.names))
    axes.set_ylim(len(axis.names) - 0.4, -0.6)
    if axis.notes:
        notes = axes.secondary_yaxis("right")
        notes.set_yticks(range(len(axis.notes)), list(axis.notes))
        notes.tick_params(length=0, labelsize=9)
        notes.spines["right"].set_visible(False)


def _places(axis: Axis, values: Sequence[float | str]) -> list[float]:
    """Where the values lie: names at the number of their row."""
    return [axis.names.index(value) if isinstance(value, str) else value for value in values]


def _colour(mark: Mark) -> str:
    return INK_COLOUR if mark.colour == INK else mark.colour


def _draw_points(axes: Axes, mark: Mark, ys: Sequence[float]) -> None:
    face = "white" if mark.hollow else _colour(mark)
    axes.plot(
        mark.x, ys, "o", color=_colour(mark), markerfacecolor=face, markersize=7, label=mark.name or None
    )


def _draw_crosses(axes: Axes, mark: Mark, ys: Sequence[float]) -> None:
    axes.plot(mark.x, ys, "x", color=_colour(mark), markersize=6, label=mark.name or None)


def _draw_line(axes: Axes, mark: Mark, ys: Sequence[float]) -> None:
    style = "--" if mark.dashed else "-"
    axes.plot(mark.x, ys, color=_colour(mark), lw=1.8, linestyle=style, label=mark.name or None)


def _draw_bars(axes: Axes, mark: Mark, ys: Sequence[float]) -> None:
    begins = mark.x2 or [0.0] * len(mark.x)
    lengths = [end - begin for begin, end in zip(begins, mark.x, strict=True)]
    alpha = 0.25 if mark.hollow else 1.0
    line_width = 0.3 if mark.name else 0.0  # around a part of a whole, which may be as pale as the paper
    axes.barh(
        ys,
        lengths,
        left=begins,
        height=0.6,
        color=_colour(mark),
        alpha=alpha,
        label=mark.name or None,
        edgecolor=INK_COLOUR,
        linewidth=line_width,
    )


def _draw_ranges(axes: Axes, mark: Mark, ys: Sequence[float]) -> None:
    if mark.x2 is not None:
        axes.hlines(ys, mark.x, mark.x2, color=_colour(mark), lw=2)
    else:
        axes.vlines(mark.x, ys, mark.y2 or ys, color=_colour(mark), lw=2)


def _draw_band(axes: Axes, mark: Mark, ys: Sequence[float]) -> None:
    axes.fill_between(mark.x, ys, mark.y2 or ys, color=_colour(mark), alpha=0.2, lw=0)


def _draw_texts(axes: Axes, mark: Mark, ys: Sequence[float]) -> None:
    paper = withStroke(linewidth=3, foreground="white")  # keeps lines away from letters
    style: dict[str, Any] = {"va": "center", "fontsize": 9, "path_effects": [paper]}
    for x, y, text in zip(mark.x, ys, mark.texts, strict=True):
        axes.annotate(text, (x, y), (6, 0), textcoords="offset points", color=_colour(mark), **style)


def _draw_across(axes: Axes, mark: Mark, ys: Sequence[float]) -> None:
    for y in ys:
        axes.axhline(y, color=_colour(mark), lw=1, linestyle="--" if mark.dashed else "-")


def _draw_along(axes: Axes, mark: Mark, _: Sequence[float]) -> None:
    for x in mark.x:
        axes.axvline(x, color=_colour(mark), lw=1, linestyle="--" if mark.dashed else "-")


DRAW: Mapping[str, Callable[[Axes, Mark, Any], None]] = {
    "point": _draw_points,
    "cross": _draw_crosses,
    "line": _draw_line,
    "bar": _draw_bars,
    "range": _draw_ranges,
    "band": _draw_band,
    "text": _draw_texts,
    "across": _draw_across,
    "along": _draw_along,
}
