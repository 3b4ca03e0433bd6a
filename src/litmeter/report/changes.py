"""What changed between two sets of results: params, and rates with their certainty."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from litmeter.measure.rows import ComparisonRow
from litmeter.report import charts
from litmeter.report.claims import ratio_text
from litmeter.report.drawing import Chart
from litmeter.report.snapshot import Snapshot
from litmeter.system.machine import describe_machine
from litmeter.system.tables import markdown_table, number_cell


@dataclass(frozen=True)
class Changes:
    """A text in Markdown, and a chart where rates can be compared."""

    text: str
    chart: Chart | None


@dataclass(frozen=True)
class RateChange:
    """A configuration's ratio to the reference after, over that before, with a 95% interval."""

    name: str
    ratio: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """Whether it became faster or slower beyond the interval."""
        if self.low > 1:
            return "faster"
        return "slower" if self.high < 1 else "not resolved"


def changes(before: Snapshot, after: Snapshot) -> Changes:
    """What changed from ``before`` to ``after``.

    Rates themselves are not compared: they were measured at different times. Ratios to the same reference
    are, at the same load, with the same model and photos.
    """
    blocks = [_params_table(before, after)]
    if before.machine["id"] != after.machine["id"]:
        machines = [describe_machine(one.machine) for one in (before, after)]
        blocks.append(f"Another machine: {machines[0]} before, {machines[1]} after.")
    other = [what for what in SAME if _common(before, what) != _common(after, what)]
    old, new = ({row.experiment: row for row in one.compared} for one in (before, after))
    found = (
        {} if other else {name: change for name in new if (change := rate_change(old.get(name), new[name]))}
    )
    rows = [
        [
            f"`{name}`",
            _cell(old.get(name), before.reference),
            _cell(new.get(name), after.reference),
            _change_cell(found.get(name), new.get(name)),
        ]
        for name in dict.fromkeys([*old, *new])
    ]
    head = ["configuration", "before: times the reference", "after", "after over before"]
    blocks.append(markdown_table(head, rows))
    if other:
        blocks.append(f"Ratios cannot be compared, as these changed: {', '.join(other)}.")
    if not found:
        return Changes("\n\n".join(blocks), None)
    ratios = {name: (one.ratio, one.low, one.high) for name, one in found.items()}
    notes = [_change_cell(change) for change in found.values()]
    return Changes("\n\n".join(blocks), charts.changes(ratios, notes))


SAME = ("the reference", "the number of users", "the model", "the photos", "what users send")
"""What must be the same for ratios to be compared."""


def _common(snapshot: Snapshot, what: str) -> Any:
    params = snapshot.params
    return {
        "the reference": (snapshot.reference, params.configuration(snapshot.reference)),
        "the number of users": params.comparison.users[0],
        "the model": (params.model, params.train),
        "the photos": params.data,
        "what users send": params.load.request_body,
    }[what]


def rate_change(before: ComparisonRow | None, after: ComparisonRow) -> RateChange | None:
    """The change of a configuration's ratio; None for the reference, where one has no interval, and where
    it was not measured again.

    The logarithms' half widths add up as those of independent measurements do.
    """
    if after.earlier:
        return None
    ends: list[tuple[float, float, float]] = []
    for row in (before, after):
        if row is None or not row.ratio or not row.ratio_low or not row.ratio_high:
            return None
        ends.append((row.ratio, row.ratio_low, row.ratio_high))
    if all(low == high for _, low, high in ends):
        return None
    (old, *_), (new, *_) = ends
    half_width = math.hypot(*(math.log(high / low) / 2 for _, low, high in ends))
    ratio = new / old
    return RateChange(after.experiment, ratio, ratio * math.exp(-half_width), ratio * math.exp(half_width))


def _cell(row: ComparisonRow | None, reference: str) -> str:
    return (
        "-"
        if row is None or row.rate_rps is None
        else f"{ratio_text(row, reference)}, {number_cell(row.rate_rps, 1)} req/s"
    )


def _change_cell(change: RateChange | None, after: ComparisonRow | None = None) -> str:
    if change is None:
        return "measured earlier" if after is not None and after.earlier else "-"
    return f"{change.ratio:.2f} ({change.low:.2f} to {change.high:.2f}), {change.verdict}"


def _params_table(before: Snapshot, after: Snapshot) -> str:
    old, new = (dict(flat(snapshot.params.model_dump(mode="json"))) for snapshot in (before, after))
    keys = [key for key in dict.fromkeys([*old, *new]) if old.get(key) != new.get(key)]
    if not keys:
        return "No key of params.yaml has changed."
    rows = [[f"`{key}`", _value(old, key), _value(new, key)] for key in keys]
    return markdown_table(["key of params.yaml", "before", "after"], rows, 3)


def _value(values: Mapping[str, Any], key: str) -> str:
    return json.dumps(values[key]) if key in values else "-"


def flat(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Keys with dots, and their values."""
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
