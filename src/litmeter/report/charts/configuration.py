"""Charts of one configuration: its bounds, and its rate and use of the machine by load."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

from litmeter.benchmark.rows import LevelRow
from litmeter.report.bounds import Bound
from litmeter.report.charts.chart import BLUE, GREY, ORANGE, Axis, Chart, Mark
from litmeter.report.results import Result
from litmeter.system.tables import pluralise

BOUNDS_TITLE = "From the hardware's peak down to the served rate"


def bounds(result: Result, found: Sequence[Bound]) -> Chart:
    """A bar per bound, and behind it what is lost to the bound above."""
    names = tuple(bound.name for bound in found)
    pairs = list(itertools.pairwise(found))
    lost = [(lower, upper) for upper, lower in pairs if upper.rate_rps > lower.rate_rps]
    known = [bound for bound in found if bound.low_rps is not None and bound.high_rps is not None]
    marks = [
        Mark(
            "bar", x=[one.rate_rps for one in found], y=names, texts=[_tip(one) for one in found], colour=GREY
        ),
        Mark(
            "bar",
            x=[upper.rate_rps for _, upper in lost],
            x2=[lower.rate_rps for lower, _ in lost],
            y=[lower.name for lower, _ in lost],
            texts=[
                f"lost from {upper.name} to {lower.name}: {upper.rate_rps - lower.rate_rps:,.1f} images/s"
                for lower, upper in lost
            ],
            colour=ORANGE,
            hollow=True,
        ),
        Mark(
            "range",
            x=[one.lowest_rps for one in known],
            x2=[one.highest_rps for one in known],
            y=[one.name for one in known],
        ),
    ]
    return Chart(
        f"{result.name}, {result.serve.precision} precision: {BOUNDS_TITLE[0].lower()}{BOUNDS_TITLE[1:]}",
        x=Axis("images/s = requests/s", low=0.0),
        y=Axis("", names=names, notes=tuple(map(_note, found))),
        marks=marks,
        note="× is the share of the bound above; pale: lost to it; lines: 95% intervals.",
    )


def _note(bound: Bound) -> str:
    rate = f"{bound.rate_rps:,.0f}" if bound.rate_rps >= 100 else f"{bound.rate_rps:.1f}"
    return rate if bound.share is None else f"{rate} (×{bound.share:.2f})"


def _tip(bound: Bound) -> str:
    interval = "" if bound.low_rps is None else f" ({bound.low_rps:,.1f} to {bound.high_rps:,.1f})"
    return f"{bound.name}: {bound.rate_rps:,.1f} images/s{interval}"


def rates(result: Result) -> Chart:
    """The rate in-process by batch size, and served by users."""
    sizes = [row.batch_size for row in result.baseline]
    users = [level.users for level in result.levels]
    served = [level.throughput_rps for level in result.levels]
    bad = [level for level in result.levels if not level.valid]
    marks = [
        Mark(
            "line",
            x=sizes,
            y=[row.model_rps for row in result.baseline],
            name="model alone, in-process",
            dashed=True,
        ),
        Mark(
            "line",
            x=sizes,
            y=[row.pipeline_rps for row in result.baseline],
            colour=GREY,
            name="pipeline (decode, preprocess, model), in-process",
            dashed=True,
        ),
        Mark("line", x=users, y=served, colour=BLUE, name="served"),
        Mark(
            "range",
            x=users,
            y=[level.low_rps for level in result.levels],
            y2=[level.high_rps for level in result.levels],
            colour=BLUE,
        ),
        Mark("point", x=users, y=served, texts=[_level_tip(level) for level in result.levels], colour=BLUE),
        Mark(
            "point",
            x=[level.users for level in bad],
            y=[level.throughput_rps for level in bad],
            texts=[f"not valid: {level.invalid_reason}" for level in bad],
            colour=ORANGE,
            hollow=True,
        ),
    ]
    return Chart(
        f"{result.name}: rate by batch size, and by users",
        x=_loads("batch size, or users", {*sizes, *users}),
        y=Axis("images/s = requests/s", low=0.0),
        marks=marks,
        note="Orange: not valid." if bad else "",
        height=220,
    )


def usage(result: Result) -> list[Chart]:
    """What was used of the CPU, and of the GPU where there is one, by users."""
    charts: list[tuple[str, Callable[[LevelRow], float | None]]] = [
        ("CPU", lambda level: level.cpu_percent),
        ("GPU", lambda level: level.gpu_percent),
    ]
    drawn = []
    for what, percent_of in charts:
        known = [
            (level.users, percent / 100)
            for level in result.levels
            if (percent := percent_of(level)) is not None
        ]
        if known:
            x, y = [users for users, _ in known], [share for _, share in known]
            marks = [Mark("line", x=x, y=y, colour=BLUE), Mark("point", x=x, y=y, colour=BLUE)]
            share = Axis(f"{what} in use", low=0.0, high=1.05, percent=True)
            drawn.append(Chart(f"{result.name}: {what}", _loads("users", set(x)), share, marks, height=220))
    return drawn


def _loads(title: str, values: set[int]) -> Axis:
    ticks = tuple(float(value) for value in sorted(values))
    return Axis(title, log=True, low=ticks[0] / 1.3, high=ticks[-1] * 1.3, ticks=ticks)


def _level_tip(level: LevelRow) -> str:
    return (
        f"{pluralise(level.users, 'user')}: {level.throughput_rps:.1f} req/s "
        f"({level.low_rps:.1f} to {level.high_rps:.1f})"
    )
