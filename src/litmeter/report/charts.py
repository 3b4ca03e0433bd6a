"""Charts of the results, drawn by matplotlib: PNG for pages in Markdown, SVG within HTML pages."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import cycle
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator, PercentFormatter

from litmeter.measure.capacity import CapacityResult
from litmeter.measure.rows import ComparisonRow, TurnRow
from litmeter.paths import PICTURES_FOLDER
from litmeter.report.machines import PLANNED_SHARE, Offer, million_cell, plan_cells, ranked
from litmeter.report.results import Result, fastest_first
from litmeter.report.tables import fate
from litmeter.say.tables import number_cell, pluralise, rate_cell, ratio_cell
from litmeter.settings import CANDIDATE
from litmeter.system.files import atomic_write
from litmeter.tune.rows import TuneRow

INK, PAPER = "#1a1a1a", "#ffffff"
"""Colours of a PNG; within report.html both are the page's, light or dark."""
BLUE, PURPLE, ORANGE, GREY = "#2a78b5", "#9c36e0", "#d1600a", "#858585"
"""Colours of the fastest, the candidate, doubts, and the rest. They contrast with white and black, and the
colour-blind tell them apart, as they do those of SEQUENCE."""
SEQUENCE = ("#6a6a6a", "#9c36e0", "#cfa5f2", "#969696", "#2a78b5", "#eda968", "#d1600a")
"""Colours of the parts of a whole, in this order."""
WIDE, NARROW, PANEL = 9.0, 4.2, 5.4
"""Inches of a drawing, of a drawing for telephones, and of each of several drawings side by side."""
ROW, LINE, AXIS, LEGEND_LINE, HEIGHT = 0.16, 0.16, 0.6, 0.2, 3.6
"""Inches of a row, a line of its text, the axis below, a line of the legend, and a chart without rows."""
LETTERS_PER_INCH = 12
DPI = 110
MOST_DECADES = 5
FEW_TIMES = 4
"""Least ratio of the highest to the lowest rate for a logarithmic axis."""
STYLE: dict[Any, Any] = {
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor"), INK),
    **dict.fromkeys(("grid.color", "xtick.color", "ytick.color"), INK),
    **dict.fromkeys(("figure.facecolor", "axes.facecolor"), PAPER),
    **{f"axes.spines.{side}": False for side in ("bottom", "left", "right", "top")},
    **{"font.size": 9, "axes.axisbelow": True, "axes.grid": True, "grid.alpha": 0.2, "grid.linewidth": 0.8},
    **{"legend.frameon": False, "xtick.major.size": 0, "ytick.major.size": 0, "svg.fonttype": "none"},
    "text.parse_math": False,  # names and messages are text of other people
}
BEYOND, FARTHEST = 1.6, 4.0
"""Factors by which the axis of ratios reaches beyond the points: at least, and at most for an interval."""


@dataclass(frozen=True)
class Chart:
    """A drawing on axes, and the texts beside it.

    Attributes:
        draw: draws everything but title, note, legend and the texts of rows onto the axes.
        note: how to read the chart.
        names: of rows, at y = 0, 1, ... from the top; none in a chart without rows.
        notes: a text at the end of each row.
    """

    title: str
    draw: Callable[[Axes], None]
    note: str = ""
    names: Sequence[str] = ()
    notes: Sequence[str] = ()


def save_png(path: Path, charts: Sequence[Chart]) -> None:
    """Draw the charts side by side. The same results give the same bytes with any version of matplotlib."""
    width = WIDE if len(charts) == 1 else PANEL * len(charts)
    with rc_context(STYLE), atomic_write(path) as temporary:
        figure = figure_of(charts, width, captions=True)
        figure.savefig(temporary, format="png", dpi=DPI, metadata={"Software": None})


def svg(chart: Chart, width: float = WIDE) -> str:
    """The chart without title and note as an element of an HTML page; empty without data.

    Text is text, and ink and paper have the page's colours (``currentColor``, ``--paper``). Ids follow from
    title and width.
    """
    with rc_context(STYLE | {"svg.hashsalt": f"{chart.title} {width}"}):
        figure = figure_of([chart], width)
        if not figure.axes[0].has_data():
            return ""
        file = io.StringIO()
        no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(file, format="svg", transparent=True, metadata=no_metadata)
    return _within_html(file.getvalue())


def _within_html(document: str) -> str:
    """matplotlib's document as an element: short, in the page's font and colours.

    An artist's ``gid`` of several words becomes a tooltip.
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
    """A tag with numbers of two decimals, without fonts, in the page's colours."""
    tag = re.sub(r"\d+\.\d{3,}", lambda number: f"{float(number[0]):.2f}".rstrip("0").rstrip("."), tag)
    tag = re.sub(r"font-family:[^;\"]*;? ?", "", re.sub(r"font: ([\d.]+px)[^;\"]*", r"font-size: \1", tag))
    tag = tag.replace(INK, "currentColor").replace(PAPER, "var(--paper)").replace("xlink:href", "href")
    return re.sub(r"\s+", " ", tag)


def figure_of(charts: Sequence[Chart], width: float, captions: bool = False) -> Figure:
    """All ``charts`` side by side in ``width`` inches; with ``captions``, also their titles and notes."""
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
    """Add a legend of all panels below them, in as many columns as fit; return its inches."""
    known: dict[str, Any] = {}
    for axes in figure.axes:
        handles, labels = axes.get_legend_handles_labels()
        known = dict(zip(labels, handles, strict=True)) | known
    if not known:
        return 0.0
    labels = list(known)
    fitting = int(figure.get_figwidth() * LETTERS_PER_INCH / (max(map(len, labels)) + 4))
    columns = max(1, min(len(labels), fitting))
    figure.legend(known.values(), labels, ncols=columns, loc="outside lower center")
    return LEGEND_LINE * (math.ceil(len(labels) / columns) + 0.5)


def _set_rows(axes: Axes, chart: Chart, beside: bool) -> float:
    """Put names to the left, and notes to the right or below names; return the inches of rows and axis."""
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


def _set_logarithmic(axis: Axis, low: float, high: float) -> None:
    """Make an axis logarithmic, with ticks at 1, 2 and 5, or at decades alone where there are many."""
    name = "x" if axis is axis.axes.xaxis else "y"
    axis.axes.set(**{f"{name}scale": "log", f"{name}lim": (low, high)})
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if math.log10(high / low) < MOST_DECADES else (1,)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))


def _draw_point(axes: Axes, x: float, y: float, colour: str, tip: str = "", *, hollow: bool = False) -> None:
    """A point with the tooltip ``tip``."""
    face = PAPER if hollow else colour
    axes.plot(x, y, "o", color=colour, markerfacecolor=face, markersize=6, gid=tip or None)


def _draw_ratio(
    axes: Axes, place: int, row: ComparisonRow | TuneRow, colour: str, tip: str, *, hollow: bool
) -> None:
    """A ratio as a point in the row ``place``, with its interval; nothing where it is unknown."""
    if row.ratio is None:
        return
    if row.ratio_low is not None and row.ratio_high is not None:
        axes.hlines(place, row.ratio_low, row.ratio_high, color=colour, lw=2)
    _draw_point(axes, row.ratio, place, colour, tip, hollow=hollow)


def draw_pictures(results: Sequence[Result], reference: str) -> None:
    """Draw the pictures in assets/results/, and remove others."""
    drawn = {"comparison": comparison(results, reference), "stages": stages(results)}
    pictures = {name: chart for name, chart in drawn.items() if chart.names}
    for name, chart in pictures.items():
        save_png(PICTURES_FOLDER / f"{name}.png", [chart])
    for path in PICTURES_FOLDER.glob("*.png"):
        if path.stem not in pictures:
            path.unlink()


def comparison(results: Sequence[Result], reference: str) -> Chart:
    """A row per configuration, the fastest first: its ratio to the reference with a simultaneous interval."""
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
            rounds = pluralise(row.rounds, "round")
            tip = f"{row.experiment}: {rate_cell(row.rate_rps)} req/s in {rounds}"
            _draw_ratio(axes, place, row, colour if row.rank else ORANGE, tip, hollow=not row.rank)
        _set_logarithmic(axes.xaxis, low, high)
        axes.set_xlabel(f"times {reference}")

    def note(row: ComparisonRow) -> str:
        text = ratio_cell(row.ratio, row.ratio_low, row.ratio_high)
        if row.ratio is None:
            below = row.ratio_high and f" in a round, below {row.ratio_high:.2f}"
            text = f"no answer{below or ''}"
        elif row.earlier:
            text += f", earlier, {row.earlier}"
        own = metrics[row.experiment]
        return f"{text}\n{number_cell(own.ready_s, 1)} s to start, {number_cell(own.memory_mib, 0)} MiB"

    cut = any(end < low or end > high for end in ends)
    return Chart(
        "Rates of all configurations, measured in turn",
        draw,
        f"At {pluralise(rows[0].users, 'user')}, with 95% intervals, on a logarithmic axis. Blue: the "
        "fastest, and what cannot be told from it."
        + (" Purple: the candidate, if it is not blue." if CANDIDATE in metrics else "")
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
        axes.set_xlim(0.0, 1.0)
        axes.xaxis.set_major_formatter(PercentFormatter(1.0))
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
"""Patterns of words in a configuration's name, and their explanations."""


MOST_DRAWN = 30
"""Configurations of a search in its picture: more rows than that cannot be read."""


def meanings(names: Iterable[str]) -> str:
    """What the words of configurations' names mean; empty where all speak for themselves."""
    words = {word for name in names for word in name.split()}
    known = [text for pattern, text in WORDS.items() if any(re.fullmatch(pattern, word) for word in words)]
    return f"{'; '.join(known)}. " if known else ""


def tune(raced: Sequence[TuneRow]) -> Chart:
    """A row for each of the best, and for serve:: its rate over the fastest one's in the rounds of both."""
    rows = [row for place, row in enumerate(raced) if place < MOST_DRAWN or row.incumbent]
    words = [row.name.split() for row in rows]
    common = set(words[0]).intersection(*words) if len(rows) > 1 else set()
    names = [
        ("serve: " if row.incumbent else "") + (" ".join(one for one in own if one not in common) or row.name)
        for row, own in zip(rows, words, strict=True)
    ]

    def draw(axes: Axes) -> None:
        axes.axvline(1.0, color=INK, lw=1)
        for place, row in enumerate(rows):
            ratio = ratio_cell(row.ratio, row.ratio_low, row.ratio_high)
            tip = f"{row.name}: {ratio}, {rate_cell(row.rate_rps)} req/s"
            _draw_ratio(axes, place, row, STATUS_COLOURS[row.status], tip, hollow=row.status != "winner")
        axes.set_xlabel("times the rate of the fastest")

    doubtful = any(STATUS_COLOURS[row.status] == ORANGE for row in rows)
    return Chart(
        "What the search measured, in turn",
        draw,
        (f"{len(rows)} of {len(raced)} that raced. " if len(rows) < len(raced) else "")
        + f"In the rounds that both took part in, with 95% intervals. {meanings(names)}Filled: the winner, "
        "the cheapest of those that are as good (blue)."
        + (" Orange: not resolved from the best, or excluded." if doubtful else ""),
        names=names,
        notes=["reference" if row.incumbent and row.status == "slower" else fate(row) for row in rows],
    )


POOLED = 5
"""Neighbouring probes whose median is a point of a line."""
PERCENTILES = {"p50": ":", "p95": "-", "p99": "--"}


def capacity(found: Mapping[str, CapacityResult]) -> list[Chart]:
    """Latencies, or times of pieces, and requests answered in time, over the offered rate."""
    names = [name for name in found if name != CANDIDATE]
    colours = {CANDIDATE: PURPLE} | dict(zip(names, cycle((BLUE, GREY, INK)), strict=False))
    probes = {name: _probes(result) for name, result in found.items()}
    rates = [rate for own in probes.values() for rate, _ in own]
    metrics = [result.metrics for result in found.values()]
    rates += [end for one in metrics for end in (one.low_rps, one.high_rps) if end]
    low, high = 0.97 * min(rates, default=1.0), 1.03 * max(rates, default=2.0)
    streamed = any(row.stream for own in probes.values() for _, row in own)
    share = f"{100 * (1 - metrics[0].miss):.4g}%"

    def draw_rates(axes: Axes) -> None:
        for name, result in found.items():
            own = result.metrics
            axes.plot([], [], color=colours[name], lw=4, label=name)
            if own.low_rps and own.high_rps:
                axes.axvspan(own.low_rps, own.high_rps, color=colours[name], alpha=0.15, lw=0)
        if high > FEW_TIMES * low:
            _set_logarithmic(axes.xaxis, low, high)
        axes.set_xlim(low, high)
        axes.set_xlabel("requests that arrive each second")

    def draw_times(axes: Axes, of: str, key: str, label: str) -> None:
        """Times that are ``of`` answers, or of their pieces in ``stream``, and their objective ``key``."""
        limits = {limit for one in metrics if (limit := getattr(one, key)) is not None}
        levels = list(limits)
        for name, own in probes.items():
            for percent, style in PERCENTILES.items():
                points = _pooled(own, f"{of}{percent}_ms")
                levels += [time_ms for _, time_ms in points]
                if points:
                    alone = "." if len(points) == 1 else None  # a line of one point is not seen
                    axes.plot(*zip(*points, strict=True), style, color=colours[name], marker=alone)
        for limit in limits:
            axes.axhline(limit, color=INK, lw=0.8)
        draw_rates(axes)
        for percent, style in PERCENTILES.items():
            axes.plot([], [], style, color=INK, label=percent)
        if levels:
            _set_logarithmic(axes.yaxis, min(levels) / 1.3, max(levels) * 1.3)
        axes.set_ylabel(f"{label}, ms")

    def draw_goodput(axes: Axes) -> None:
        all_rates = np.geomspace(low, high, 100)
        axes.plot(all_rates, all_rates, color=INK, lw=0.8)
        for name, result in found.items():
            own = probes[name]
            if own and result.curve is not None:
                grid = all_rates[(all_rates >= own[0][0]) & (all_rates <= own[-1][0])]
                axes.plot(grid, grid * (1 - result.curve.shares(grid)), color=colours[name])
            for rate, row in own:
                good = rate * (1 - (row.missed or 0.0))
                tip = f"{name}: {rate_cell(good)} of {rate_cell(rate)} requests/s in time"
                axes.plot(rate, good, "o", color=colours[name], markersize=3, gid=tip)
        draw_rates(axes)
        axes.set_ylim(0, high)
        axes.set_ylabel("answered in time, requests/s")

    waiting = Chart(
        "The more requests arrive, the longer they take",
        partial(draw_times, of="", key="slo_ms", label="latency"),
        "Requests arrive whether or not those before are answered. Half of them take no longer than the "
        "dotted line, 95% no longer than the solid one, 99% no longer than the dashed one (medians of "
        f"{POOLED} neighbouring probes). Horizontal: the objective. Band: the 90% interval of the "
        f"capacity, the highest rate at which {share} of the requests keep to the objective.",
    )
    label = "time to the first piece (TTFT)"
    first = replace(waiting, draw=partial(draw_times, of="first_", key="first_ms", label=label))
    further = Chart(
        "The more answers at once, the slower their pieces",
        partial(draw_times, of="piece_", key="piece_ms", label="time per further piece"),
        "The mean time of an answer's further pieces, or tokens; lines, horizontal and band as before.",
    )
    return [
        *([waiting] if not streamed or any(one.slo_ms for one in metrics) else []),
        *([first, further] if streamed else []),
        Chart(
            "Beyond the capacity, fewer and fewer are answered in time",
            draw_goodput,
            "A point is a probe: one rate for some seconds. On the thin line, all that arrive are answered "
            "in time. The coloured line is fitted to the points; the band is the capacity's interval.",
        ),
    ]


def _probes(result: CapacityResult) -> list[tuple[float, TurnRow]]:
    """The probes that are not void, with their rates, the lowest rate first."""
    rows = [row for row in result.rows if row.missed is not None and not row.void]
    return sorted(((row.offered_rps, row) for row in rows if row.offered_rps), key=lambda pair: pair[0])


def _pooled(probes: Sequence[tuple[float, TurnRow]], name: str) -> list[tuple[float, float]]:
    """Median rate and figure of each POOLED neighbours; none where a probe has too few answers."""
    points = []
    for group in np.array_split(np.arange(len(probes)), max(1, len(probes) // POOLED)):
        rates, rows = [probes[place][0] for place in group], [probes[place][1] for place in group]
        values = [own for row in rows if (own := {**row.stream, **vars(row)}.get(name)) is not None]
        if values and len(values) == len(rows):
            points.append((float(np.median(rates)), float(np.median(values))))
    return points


def prices(offers: Sequence[Offer], rate_rps: float) -> Chart:
    """A row per offer, the cheapest first: the price of a million requests."""
    places = ranked(offers)
    names = [one.title.replace("`", "") for _, one in places]
    highest = max((one.million[1] for _, one in places if one.million), default=1.0)

    def draw(axes: Axes) -> None:
        for place, (rank, one) in enumerate(places):
            if one.million:
                colour = BLUE if rank == 1 else GREY
                axes.hlines(place, *one.million, color=colour, lw=2)
                _draw_point(axes, one.million[1], place, colour, f"{names[place]}: {million_cell(one)}")
        axes.set_xlim(0, 1.1 * highest)
        axes.set_xlabel("price of a million requests")

    def note(offer: Offer) -> str:
        capacity, count, _ = plan_cells(rate_rps, offer.metrics)
        return f"{capacity} requests/s\nmachines: {count}, each {offer.price:g} an hour"

    return Chart(
        f"What a million requests cost, and how many machines {rate_rps:,g} a second need",
        draw,
        f"Point: at {PLANNED_SHARE:g} of the capacity's low end, for planning. Line: the price's interval. "
        "Blue: the cheapest, and what cannot be told from it.",
        names=names,
        notes=[note(one) for _, one in places],
    )
