"""Plot of all configurations: time of a request by stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from servebench.report.plots.style import HATCHES
from servebench.report.results import Result
from servebench.system.tables import pluralise


def stages(results: Sequence[Result]) -> Figure:
    """A request's mean time in each stage at the best level, in ms and as a share of the whole."""
    known = [
        (f"{result.name}, {pluralise(best.users, 'user')}", times)
        for result in results
        if (best := result.best) and (times := result.stage_ms(best.users))
    ]
    totals_ms = [sum(times.values()) for _, times in known]
    figure, (absolute, relative) = plt.subplots(
        1, 2, figsize=(14, 1.6 + 0.55 * max(1, len(known))), sharey=True, layout="constrained"
    )
    _stacked_bars(absolute, [times for _, times in known], 0.05 * max(totals_ms, default=1.0))
    for position, total_ms in enumerate(totals_ms):
        end = (total_ms, position)
        absolute.annotate(
            f"{total_ms:.0f}", end, (5, 0), textcoords="offset points", va="center", weight="bold"
        )
    percent = [
        {stage: 100 * ms / total for stage, ms in times.items()}
        for (_, times), total in zip(known, totals_ms, strict=True)
    ]
    _stacked_bars(relative, percent, 5.0)
    absolute.set_yticks(range(len(known)), [label for label, _ in known])
    absolute.set_ylim(len(known) - 0.4, -0.6)
    absolute.set_xlim(0, 1.12 * max(totals_ms, default=1.0))
    relative.set_xlim(0, 100)
    absolute.set_xlabel("mean time of a request at the best level, ms")
    relative.set_xlabel("share of that time, %")
    labels = absolute.get_legend_handles_labels()
    figure.legend(*labels, loc="outside upper center", ncols=len(HATCHES), fontsize=9, frameon=False)
    return figure


def _stacked_bars(axes: Axes, rows: Sequence[Mapping[str, float]], labelled_above: float) -> None:
    """A horizontal bar per row with a hatched part per stage; parts above ``labelled_above`` get a number."""
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
        labels = [f"{value:.0f}" if value > labelled_above else "" for value in values]
        for text in axes.bar_label(bars, labels=labels, label_type="center", fontsize=8):
            if text.get_text():
                text.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 1.0})
        ends = [end + value for end, value in zip(ends, values, strict=True)]
