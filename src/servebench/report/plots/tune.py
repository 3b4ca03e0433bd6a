"""Picture of a search: the rate of all that raced, predicted and measured, and who dropped out when."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from servebench.report.plots.style import COLOURS
from servebench.system.tables import pluralise
from servebench.tune.rows import TuneRow, ratio_cell

STATUS_COLOURS = {
    "winner": COLOURS[1],
    "equal": COLOURS[3],
    "not resolved": COLOURS[5],
    "slower": COLOURS[6],
    "excluded": COLOURS[2],
}


def tune(rows: Sequence[TuneRow]) -> Figure:
    """A line per configuration: its rate over that of the section ``serve``, and what was predicted."""
    figure, axes = plt.subplots(figsize=(12, 0.36 * len(rows) + 1.6), layout="constrained")
    [serve_rps] = [row.predicted_rps for row in rows if row.incumbent]
    for place, row in enumerate(rows):
        colour = STATUS_COLOURS[row.status]
        axes.plot(row.predicted_rps / serve_rps, place, "x", color=COLOURS[0], markersize=6)
        if row.over_serve is not None:
            filled = colour if row.status == "winner" else "white"
            if row.over_serve_low is not None and row.over_serve_high is not None:
                axes.plot([row.over_serve_low, row.over_serve_high], [place, place], color=colour, lw=1.5)
            axes.plot(row.over_serve, place, "o", color=colour, markerfacecolor=filled, markersize=7)
        left = "" if row.lost_after is None else f", out after {pluralise(row.lost_after, 'round')}"
        over_serve = ratio_cell(row.over_serve, row.over_serve_low, row.over_serve_high)
        axes.text(
            1.01,
            place,
            f"{row.reason or row.status}: ×{over_serve}{left}",
            transform=axes.get_yaxis_transform(),
            va="center",
            fontsize=9,
            color=colour,
        )
    axes.axvline(1, color="0.6", lw=1)
    axes.set_xlim(left=0)
    axes.set_yticks(
        range(len(rows)), [f"serve: {row.name}" if row.incumbent else row.name for row in rows], fontsize=9
    )
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlabel("times the rate of the section serve, 95% intervals")
    axes.grid(axis="x", alpha=0.3)
    handles = [
        Line2D([], [], marker="o", ls="none", color=COLOURS[1], label="measured in turn"),
        Line2D([], [], marker="x", ls="none", color=COLOURS[0], label="predicted from the parts' costs"),
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=2, frameon=False)
    return figure
