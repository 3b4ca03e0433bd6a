"""How charts are drawn, all by matplotlib: as PNG for pages in Markdown, as SVG within report.html."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator, PercentFormatter

from litmeter.system.files import atomic_write

INK, PAPER = "#1a1a1a", "#ffffff"
"""Colours of a PNG; within report.html both are the page's, light or dark."""
BLUE, PURPLE, ORANGE, GREY = "#2a78b5", "#9c36e0", "#d1600a", "#858585"
"""Colours of what leads, the candidate, what is in doubt or lost, and the rest: seen on white and on black,
and told apart by the colour-blind, as the colours below are."""
SEQUENCE = ("#6a6a6a", "#9c36e0", "#cfa5f2", "#969696", "#2a78b5", "#eda968", "#d1600a")
"""Parts of a whole, next to each other in this order."""
WIDE, NARROW = 9.0, 4.2
"""Inches of a drawing; a telephone shows the narrow one."""
PANEL = 5.4
"""Inches of one of several side by side."""
ROW, LINE, AXIS, LEGEND_LINE = 0.16, 0.16, 0.6, 0.2
"""Inches of a row, of a line of text in it, of the axis below the rows, and of a line of the legend."""
HEIGHT = 3.6
"""Inches of a chart without rows."""
LETTERS_PER_INCH = 12
DPI = 110
MOST_DECADES = 5
STYLE: dict[Any, Any] = {
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor"), INK),
    **dict.fromkeys(("grid.color", "xtick.color", "ytick.color"), INK),
    **dict.fromkeys(("figure.facecolor", "axes.facecolor"), PAPER),
    **{f"axes.spines.{side}": False for side in ("bottom", "left", "right", "top")},
    **{"font.size": 9, "axes.axisbelow": True, "axes.grid": True, "grid.alpha": 0.2, "grid.linewidth": 0.8},
    **{"legend.frameon": False, "xtick.major.size": 0, "ytick.major.size": 0, "svg.fonttype": "none"},
}


@dataclass(frozen=True)
class Chart:
    """A drawing on axes, and the texts beside it.

    Attributes:
        draw: puts everything but title, note, legend and the texts of rows onto the axes.
        note: what one must know to read it.
        names: of a chart with a row for each, at y = 0, 1, ... from the top.
        notes: a text behind each row's end, as many as names.
    """

    title: str
    draw: Callable[[Axes], None]
    note: str = ""
    names: Sequence[str] = ()
    notes: Sequence[str] = ()


def save_png(path: Path, charts: Sequence[Chart]) -> None:
    """Draw the charts side by side, without matplotlib's version: the same results give the same bytes."""
    width = WIDE if len(charts) == 1 else PANEL * len(charts)
    with rc_context(STYLE), atomic_write(path) as temporary:
        figure = draw(charts, width, captions=True)
        figure.savefig(temporary, format="png", dpi=DPI, metadata={"Software": None})


def svg(chart: Chart, width: float = WIDE) -> str:
    """The chart without title and note as an element of an HTML page; empty where there is nothing to see.

    Texts are texts, ink and paper those of the page (``currentColor`` and ``--paper``). The ids in it follow
    from title and width.
    """
    with rc_context(STYLE | {"svg.hashsalt": f"{chart.title} {width}"}):
        figure = draw([chart], width)
        if not figure.axes[0].has_data():
            return ""
        file = io.StringIO()
        no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(file, format="svg", transparent=True, metadata=no_metadata)
    return _within_html(file.getvalue())


def _within_html(document: str) -> str:
    """matplotlib's document as an element: short, in the page's font and colours.

    An artist's ``gid`` of several words becomes what is said where one points at it.
    """
    _, head, content = document.partition("<svg ")
    head, _, content = content.partition(">")
    [box] = re.findall(r'viewBox="[^"]*"', head)
    for pattern, replacement in (
        (r"(?s)<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", ""),
        (r'<g id="([^"]* [^"]*)">', r"<g><title>\1</title>"),
        (r'<g id="[^"]*"/>|<path [^>]*style="fill: none"/>', ""),
        (r'<g id="[^"]*">', "<g>"),
        (r">\s+<", "><"),
    ):
        content = re.sub(pattern, replacement, content)
    content = re.sub(r"<[^>]*>", lambda tag: _short(tag[0]), content)
    return f"<svg {box}>{content}".strip()


def _short(tag: str) -> str:
    """A tag with numbers of two decimals, and without what the page says for all."""
    tag = re.sub(r"\d+\.\d{3,}", lambda number: f"{float(number[0]):.2f}".rstrip("0").rstrip("."), tag)
    tag = re.sub(r"font-family:[^;\"]*;? ?", "", re.sub(r"font: ([\d.]+px)[^;\"]*", r"font-size: \1", tag))
    tag = tag.replace(INK, "currentColor").replace(PAPER, "var(--paper)").replace("xlink:href", "href")
    return re.sub(r"\s+", " ", tag)


def draw(charts: Sequence[Chart], width: float, captions: bool = False) -> Figure:
    """A figure of all ``charts`` side by side.

    Args:
        width: of the figure in inches.
        captions: whether titles and notes are within the picture.
    """
    rows_beside = width > NARROW
    letters = int(width / len(charts) * LETTERS_PER_INCH)
    figure = Figure((width, 1.0), layout="constrained")
    heights = []
    for axes, chart in zip(figure.subplots(1, len(charts), squeeze=False).flat, charts, strict=True):
        chart.draw(axes)
        heights.append(_set_rows(axes, chart, rows_beside) if chart.names else HEIGHT)
        if captions:
            title, note = fill(chart.title, letters), fill(chart.note, letters)
            axes.set_title(title, loc="left", fontsize=11)
            axes.set_xlabel(f"{axes.get_xlabel()}\n\n{note}".strip())
            heights[-1] += LINE * (title.count("\n") + note.count("\n") + 4)
    figure.set_figheight(max(heights) + _add_legend(figure))
    return figure


def _add_legend(figure: Figure) -> float:
    """One of all panels, below them, in as many columns as fit; return its inches."""
    known = [pair for axes in figure.axes for pair in zip(*axes.get_legend_handles_labels(), strict=True)]
    if not known:
        return 0.0
    handles, labels = zip(*known, strict=True)
    fitting = int(figure.get_figwidth() * LETTERS_PER_INCH / (max(map(len, labels)) + 4))
    columns = max(1, min(len(labels), fitting))
    figure.legend(handles, labels, ncols=columns, loc="outside lower center")
    return LEGEND_LINE * (math.ceil(len(labels) / columns) + 0.5)


def _set_rows(axes: Axes, chart: Chart, beside: bool) -> float:
    """Put names at the left, notes at the right, or both at the left; return the inches of rows and axis."""
    places, texts = range(len(chart.names)), list(chart.names)
    if beside:
        right = axes.secondary_yaxis("right")
        right.set_yticks(places, list(chart.notes))
        right.spines["right"].set_visible(False)
        right.grid(visible=False)
    else:
        texts = ["\n".join(lines) for lines in zip(chart.names, chart.notes, strict=True)]
    axes.set_yticks(places, texts)
    axes.set_ylim(len(texts) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    lines = max(text.count("\n") + 1 for text in (chart.notes if beside else texts))
    return (ROW + LINE * lines) * len(texts) + AXIS


def set_logarithmic(axis: Axis, low: float, high: float) -> None:
    """A logarithmic axis between two ends, with ticks at 1, 2 and 5, or at decades where there are many."""
    name = "x" if axis is axis.axes.xaxis else "y"
    axis.axes.set(**{f"{name}scale": "log", f"{name}lim": (low, high)})
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    digits = (1, 2, 5) if len(decades) <= MOST_DECADES else (1,)
    ticks = (digit * 10.0**decade for decade in decades for digit in digits)
    axis.set_major_locator(FixedLocator([tick for tick in ticks if low <= tick <= high]))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))


def set_shares(axis: Axis, high: float = 1.0) -> None:
    """An axis of shares from 0."""
    axis.set_view_interval(0.0, high, ignore=True)
    axis.set_major_formatter(PercentFormatter(1.0))


def draw_point(axes: Axes, x: float, y: float, colour: str, tip: str = "", *, hollow: bool = False) -> None:
    """A point; ``tip`` is what is said where one points at it."""
    face = PAPER if hollow else colour
    axes.plot(x, y, "o", color=colour, markerfacecolor=face, markersize=6, gid=tip or None)


def draw_ratio(
    axes: Axes,
    place: int,
    ends: tuple[float | None, float | None, float | None],
    colour: str,
    tip: str,
    *,
    hollow: bool,
) -> None:
    """A ratio as a point in the row ``place``, with its interval; nothing where it is unknown."""
    ratio, low, high = ends
    if ratio is None:
        return
    if low is not None and high is not None:
        axes.hlines(place, low, high, color=colour, lw=2)
    draw_point(axes, ratio, place, colour, tip, hollow=hollow)
