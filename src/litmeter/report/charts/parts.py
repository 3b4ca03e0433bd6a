"""Charts of parts: where the time of a request goes, and how large the batches are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from litmeter.benchmark.rows import BatchRow
from litmeter.report.charts.chart import SEQUENCE, STEPS, Axis, Chart, Mark
from litmeter.report.results import Result
from litmeter.system.tables import pluralise

STAGES_TITLE = "Where the time of a request goes"
BATCHES_TITLE = "Sizes of batches by concurrency"


def stages(results: Sequence[Result]) -> Chart:
    """A bar per configuration: the share of each stage in a request's mean time at the best level."""
    times = {
        result.name: own
        for result in results
        if result.best and (own := result.stage_ms(result.best.users)) and sum(own.values()) > 0
    }
    notes = [
        f"{sum(times[result.name].values()):,.0f} ms, {pluralise(result.best.users, 'user')}"
        for result in results
        if result.best and result.name in times
    ]
    names = list(dict.fromkeys(stage for own in times.values() for stage in own))
    colour_of = {name: SEQUENCE[number % len(SEQUENCE)] for number, name in enumerate(names)}
    return Chart(
        STAGES_TITLE,
        x=Axis("share of a request's mean time, at the best level", low=0.0, high=1.0, percent=True),
        y=Axis("", names=tuple(times), notes=tuple(notes)),
        marks=_stacked(times, colour_of, "ms"),
        note="Each at its fastest number of users, as shares of the times at the right. batch_wait: until "
        "all of its batch is decoded. LitServe's own transport waits for more requests in the queue.",
    )


def batch_sizes(results: Sequence[Result]) -> Chart:
    """A bar per configuration that forms batches and level: the share of batches by their size."""
    counts: dict[str, dict[str, float]] = {}
    notes = []
    for result in results:
        for level in result.levels:
            own = {_size(row): float(row.batches) for row in result.batches if row.users == level.users}
            if result.serve.max_batch_size > 1 and sum(own.values()) > 0:
                counts[f"{result.name}, {pluralise(level.users, 'user')}"] = own
                notes.append("" if level.batch_size is None else f"mean {level.batch_size:.1f}")
    limits = sorted({float(row.up_to): _size(row) for result in results for row in result.batches}.items())
    sizes = [size for _, size in limits if any(own.get(size) for own in counts.values())]
    shares = {name: {size: own.get(size, 0.0) for size in sizes} for name, own in counts.items()}
    colour_of = dict(zip(sizes, steps(len(sizes)), strict=True))
    return Chart(
        BATCHES_TITLE,
        x=Axis("share of the batches", low=0.0, high=1.0, percent=True),
        y=Axis("", names=tuple(shares), notes=tuple(notes)),
        marks=_stacked(shares, colour_of, "batches"),
    )


def _size(row: BatchRow) -> str:
    return "larger" if math.isinf(float(row.up_to)) else f"up to {row.up_to}"


def steps(count: int) -> list[str]:
    """So many of STEPS, or between them, from the palest to the darkest."""
    if count == 1:
        return [STEPS[len(STEPS) // 2]]
    places = np.linspace(0, len(STEPS) - 1, count)
    parts = np.array([[int(step[place : place + 2], 16) for place in (1, 3, 5)] for step in STEPS])
    mixed = [np.interp(places, range(len(STEPS)), part) for part in parts.T]
    return [
        f"#{round(red):02x}{round(green):02x}{round(blue):02x}"
        for red, green, blue in zip(*mixed, strict=True)
    ]


def _stacked(rows: Mapping[str, Mapping[str, float]], colour_of: Mapping[str, str], unit: str) -> list[Mark]:
    """Bars that add up to 1 in each row, a mark per part."""
    ends = dict.fromkeys(rows, 0.0)
    marks = []
    for part, colour in colour_of.items():
        begins = dict(ends)
        for name, own in rows.items():
            ends[name] += own.get(part, 0.0) / sum(own.values())
        marks.append(
            Mark(
                "bar",
                x=list(ends.values()),
                x2=list(begins.values()),
                y=list(rows),
                texts=[f"{name}: {part}, {own.get(part, 0.0):,.4g} {unit}" for name, own in rows.items()],
                colour=colour,
                name=part,
            )
        )
    return marks
