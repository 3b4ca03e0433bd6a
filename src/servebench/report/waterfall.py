"""Where the rate goes, rung by rung, and where a request's time goes, stage by stage."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from servebench.report.collect import Result
from servebench.report.drawing import COLOURS, COLUMNS, HATCHES
from servebench.report.ladder import RUNGS, Rung
from servebench.report.limit import counted


def waterfall(ladders: Mapping[str, Sequence[Rung]]) -> Figure:
    """A panel per configuration: from each rung to the next, what is lost.

    The axis is logarithmic: the same share is the same length, wherever it is lost.
    """
    shown = [name for name in RUNGS if any(rung.name == name for rungs in ladders.values() for rung in rungs)]
    columns = min(COLUMNS, len(ladders))
    rows = -(-len(ladders) // columns)
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
    for axes, (name, rungs) in zip(panels, ladders.items(), strict=False):
        _ladder(axes, rungs, shown)
        axes.set_title(name, fontsize=10)
    for axes in panels[len(ladders) :]:
        axes.set_visible(False)
    for axes in panels[max(0, len(ladders) - columns) : len(ladders)]:
        axes.tick_params(labelbottom=True)
    rates = [rung.rate_rps for rungs in ladders.values() for rung in rungs]
    first = panels[0]
    first.set_xscale("log")
    decades = math.log10(max(rates) / min(rates))
    # Room for the numbers on either side, which take the same width on a short axis and on a long one.
    first.set_xlim(min(rates) / 10 ** max(0.35, 0.22 * decades), max(rates) * 10 ** max(0.4, 0.22 * decades))
    first.xaxis.set_major_locator(LogLocator(base=10, subs=(1.0, 3.0) if decades < 2.5 else (1.0,)))
    first.xaxis.set_minor_locator(NullLocator())
    first.xaxis.set_major_formatter(FuncFormatter(lambda rate, _: f"{rate:,.0f}"))
    first.set_ylim(len(shown) - 0.4, -0.6)
    figure.supxlabel(
        "images/s = requests/s, logarithmic; × share of the rung above; hatched: lost", fontsize=10
    )
    return figure


def _ladder(axes: Axes, rungs: Sequence[Rung], shown: Sequence[str]) -> None:
    above: Rung | None = None
    for rung in rungs:
        place = shown.index(rung.name)
        if above is not None:
            low, high = sorted((rung.rate_rps, above.rate_rps))
            axes.barh(
                place,
                high - low,
                left=low,
                height=0.5,
                facecolor="white",
                edgecolor=COLOURS[2],
                hatch="////",
                linewidth=0.8,
            )
            axes.plot([above.rate_rps] * 2, [shown.index(above.name), place], color="0.6", lw=0.8, zorder=0)
        axes.plot([rung.rate_rps] * 2, [place - 0.32, place + 0.32], color=COLOURS[0], lw=2.5)
        if rung.low_rps is not None and rung.high_rps is not None:
            axes.plot([rung.low_rps, rung.high_rps], [place, place], color=COLOURS[0], lw=1)
        ends = [rung.rate_rps, rung.lowest_rps]
        axes.annotate(
            f"{rung.rate_rps:,.0f}" if rung.rate_rps >= 100 else f"{rung.rate_rps:.1f}",
            (min(ends), place),
            (-5, 0),
            textcoords="offset points",
            ha="right",
            va="center",
            fontsize=9,
            weight="bold",
        )
        if rung.share is not None and above is not None:
            axes.annotate(
                f"×{rung.share:.2f}",
                (max(above.rate_rps, rung.highest_rps), place),
                (5, 0),
                textcoords="offset points",
                ha="left",
                va="center",
                fontsize=9,
            )
        above = rung
    axes.set_yticks(range(len(shown)), list(shown))
    axes.grid(axis="x", alpha=0.3)


def stages(results: Sequence[Result]) -> Figure:
    """A request's mean time in each stage at the best level, in ms and as a share of the whole."""
    known = [
        (f"{result.name}, {counted(best.users, 'user')}", times)
        for result in results
        if (best := result.best) and (times := result.stage_ms(best.users))
    ]
    whole = [sum(times.values()) for _, times in known]
    figure, (absolute, relative) = plt.subplots(
        1, 2, figsize=(14, 1.6 + 0.55 * max(1, len(known))), sharey=True, layout="constrained"
    )
    _stacked(absolute, [times for _, times in known], 0.05 * max(whole, default=1.0))
    for place, end in enumerate(whole):
        absolute.annotate(
            f"{end:.0f}", (end, place), (5, 0), textcoords="offset points", va="center", weight="bold"
        )
    percent = [
        {stage: 100 * ms / total for stage, ms in times.items()}
        for (_, times), total in zip(known, whole, strict=True)
    ]
    _stacked(relative, percent, 5.0)
    absolute.set_yticks(range(len(known)), [label for label, _ in known])
    absolute.set_ylim(len(known) - 0.4, -0.6)
    absolute.set_xlim(0, 1.12 * max(whole, default=1.0))
    relative.set_xlim(0, 100)
    absolute.set_xlabel("mean time of a request at the best level, ms")
    relative.set_xlabel("share of that time, %")
    labels = absolute.get_legend_handles_labels()
    figure.legend(*labels, loc="outside upper center", ncols=len(HATCHES), fontsize=9, frameon=False)
    return figure


def _stacked(axes: Axes, rows: Sequence[Mapping[str, float]], worth_a_number: float) -> None:
    """A horizontal bar per row, its parts told apart by hatching; numbers where there is room."""
    ends = [0.0] * len(rows)
    for number, stage in enumerate(dict.fromkeys(stage for row in rows for stage in row)):
        values = [row.get(stage, 0.0) for row in rows]
        bars = axes.barh(
            range(len(rows)),
            values,
            left=ends,
            height=0.62,
            label=stage,
            facecolor=f"{1 - 0.06 * number:.2f}",
            edgecolor="black",
            hatch=HATCHES[number % len(HATCHES)],
            linewidth=0.8,
        )
        labels = [f"{value:.0f}" if value > worth_a_number else "" for value in values]
        for text in axes.bar_label(bars, labels=labels, label_type="center", fontsize=8):
            if text.get_text():
                text.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 1.0})
        ends = [end + value for end, value in zip(ends, values, strict=True)]
