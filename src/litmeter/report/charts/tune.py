"""Chart of a search: the rate of all that raced, predicted and measured."""

from __future__ import annotations

import re
from collections.abc import Sequence

from litmeter.report.charts.chart import BLUE, GREY, INK, ORANGE, Axis, Chart, Mark
from litmeter.tune.rows import TuneRow, ratio_cell

STATUS_COLOURS = {
    "winner": BLUE,
    "equal": BLUE,
    "not resolved": ORANGE,
    "slower": GREY,
    "excluded": ORANGE,
}

WORDS = {
    r"\d+x\d+": "2x1: workers x threads",
    r"b\d+": "b4: batches of up to 4",
    r"\d+ms": "0ms: the timeout of a batch",
    "keep": "keep: freed memory kept",
}
"""Of a configuration's name, as a pattern, and what the chart's note says of it."""
BEYOND = 1.05
"""The axis reaches this factor beyond the lowest and the highest ratio."""


def tune(rows: Sequence[TuneRow]) -> Chart:
    """A row per configuration: its rate over the fastest one's, in the rounds of both, and as predicted."""
    fastest = next((row for row in rows if row.ratio_low == row.ratio_high == 1.0), rows[0])
    names = [
        f"serve: {name}" if row.incumbent else name for row, name in zip(rows, distinct(rows), strict=True)
    ]
    marks = [Mark("along", x=[1.0])]
    for row, name in zip(rows, names, strict=True):
        if row.ratio is None:
            continue
        colour = STATUS_COLOURS[row.status]
        if row.ratio_low is not None and row.ratio_high is not None:
            marks.append(Mark("range", x=[row.ratio_low], x2=[row.ratio_high], y=[name], colour=colour))
        text = f"{name}: {ratio_cell(row.ratio, row.ratio_low, row.ratio_high)}, {row.rate_rps:.1f} req/s"
        hollow = row.status != "winner"
        marks.append(Mark("point", x=[row.ratio], y=[name], texts=[text], colour=colour, hollow=hollow))
    doubtful = any(STATUS_COLOURS[row.status] == ORANGE for row in rows)
    doubt = " Orange: not resolved from the best, or excluded." if doubtful else ""
    predicted = [row.predicted_rps / fastest.predicted_rps for row in rows]
    marks.append(Mark("cross", x=predicted, y=names, colour=INK))
    shown = [*predicted, *(end for row in rows for end in (row.ratio, row.ratio_low, row.ratio_high) if end)]
    return Chart(
        "What the search measured, in turn",
        x=Axis("times the rate of the fastest", low=min(shown) / BEYOND, high=max(shown) * BEYOND),
        y=Axis("", names=tuple(names), notes=tuple(map(_note, rows))),
        marks=marks,
        note="In the rounds that both took part in, with 95% intervals; ×: predicted from the costs of the "
        f"parts, which only chooses who races. {_explained(names)}Filled: the winner, the cheapest of those "
        f"that are as good (blue).{doubt}",
    )


def _explained(names: Sequence[str]) -> str:
    """The meaning of those ``WORDS`` that stand in the names."""
    words = {word for name in names for word in name.split()}
    meanings = [text for pattern, text in WORDS.items() if any(re.fullmatch(pattern, word) for word in words)]
    return f"{'; '.join(meanings)}. " if meanings else ""


def _note(row: TuneRow) -> str:
    """What became of it; at length, a table tells it."""
    if row.incumbent and row.status == "slower":
        return "reference"
    return row.reason or (row.status if row.lost_after is None else f"out in round {row.lost_after}")


def distinct(rows: Sequence[TuneRow]) -> list[str]:
    """The names without what all have in common."""
    words = [row.name.split() for row in rows]
    common = set.intersection(*map(set, words)) if len(rows) > 1 else set()
    return [
        " ".join(word for word in own if word not in common) or row.name
        for row, own in zip(rows, words, strict=True)
    ]
