"""A chart as data: what it shows, its titles and its colours, whatever draws it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from scipy.optimize import isotonic_regression

INK = "ink"
"""The colour of the page's text, whatever that is."""
BLUE, PURPLE, ORANGE, GREY = "#2a78b5", "#9c36e0", "#d1600a", "#858585"
"""What leads, the candidate, what is in doubt or lost, and the rest: seen on white and on black, and told
apart by the colour-blind, as the colours below are."""
SEQUENCE = ("#6a6a6a", "#9c36e0", "#cfa5f2", "#969696", "#2a78b5", "#eda968", "#d1600a")
"""Parts of a whole, next to each other in this order."""
STEPS = ("#c3dff2", "#8fbfe2", "#559bcf", "#2a78b5", "#1b5583", "#0e2f4d")
"""From few to many."""

MOST_DECADES = 5

Kind = Literal["point", "cross", "line", "bar", "range", "band", "text", "across", "along"]


@dataclass(frozen=True)
class Axis:
    """An axis.

    Attributes:
        names: of a chart with a row per name, from the top; the y values are then names.
        notes: a text behind each row's end, as many as names.
        low, high: its ends, None to leave them to the values.
        ticks: values with a tick, empty to leave them to the drawer.
        percent: whether its numbers are shares.
    """

    title: str
    names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    log: bool = False
    low: float | None = None
    high: float | None = None
    ticks: tuple[float, ...] = ()
    percent: bool = False

    @property
    def places(self) -> tuple[float, ...]:
        """Its ticks; of a logarithmic axis between two ends 1, 2 and 5 of each decade, or the decades."""
        if self.ticks or not self.log or self.low is None or self.high is None:
            return self.ticks
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        digits = (1, 2, 5) if len(decades) <= MOST_DECADES else (1,)
        ticks = (digit * 10.0**decade for decade in decades for digit in digits)
        return tuple(tick for tick in ticks if self.low <= tick <= self.high)


@dataclass(frozen=True)
class Mark:
    """Points, lines, bars or texts of one colour.

    Attributes:
        kind: "point"; "cross"; "line" through the places; "bar" along x from ``x2`` (or 0) to ``x``; "range",
            a thin line from ``x`` to ``x2``, or from ``y`` to ``y2``; "band" between ``y`` and ``y2``;
            "text"; or a line "across" the chart at each y, or "along" it at each x.
        texts: of kind "text", and what is said where one points at the other kinds.
        name: in the legend; empty: not there.
        hollow: a point without filling, a bar that is pale.
    """

    kind: Kind
    x: Sequence[float] = ()
    y: Sequence[float | str] = ()
    x2: Sequence[float] | None = None
    y2: Sequence[float] | None = None
    texts: Sequence[str] = ()
    colour: str = INK
    name: str = ""
    hollow: bool = False
    dashed: bool = False


@dataclass(frozen=True)
class Chart:
    """Marks over two axes.

    Attributes:
        note: what one must know to read it.
        height: of the drawing in pixels, 0 for as much as its rows need.
    """

    title: str
    x: Axis
    y: Axis
    marks: Sequence[Mark] = field(default_factory=tuple)
    note: str = ""
    height: int = 0


def spread(values: Sequence[float], gap: float) -> list[float]:
    """Places of labels: moved as little as needed (least squares), so that each is ``gap`` from the next."""
    order = np.argsort(values, kind="stable")
    gaps = gap * np.arange(len(values))
    moved = np.empty(len(values))
    moved[order] = isotonic_regression(np.asarray(values)[order] - gaps).x + gaps
    return list(moved.tolist())
