"""Tables of the pages besides that of results, and the rows of the files that DVC shows and plots."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from litmeter.measure.levels import by_users
from litmeter.measure.rows import ComparisonRow, TurnRow
from litmeter.params import CANDIDATE
from litmeter.report.bounds import BOUND_NAMES, Bound
from litmeter.report.printed import share_cell
from litmeter.report.results import Result, mean
from litmeter.report.snapshot import Snapshot, Tuned
from litmeter.system.files import rounded
from litmeter.system.tables import markdown_table, number_cell, without_empty
from litmeter.tune.rows import HEAD, NOT_SLOWER, ratio_cell, tune_cells

Row = dict[str, Any]


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Each name up to its first underscore, where that is unique: e1 for e1_baseline."""
    prefixes = {name: name.split("_")[0] for name in names}
    counts = Counter(prefixes.values())
    return {name: prefix if counts[prefix] == 1 else name for name, prefix in prefixes.items()}


def summary(compared: Sequence[ComparisonRow]) -> dict[str, float]:
    """Requests per second of each configuration in the comparison, three significant digits.

    0 for one that answered nothing: DVC would leave out a column without a value. One short key per
    configuration is a readable `dvc exp show`.
    """
    short = short_names([row.experiment for row in compared])
    by_name = {short[row.experiment]: float(f"{row.rate_rps or 0.0:.3g}") for row in compared}
    # The candidate, which `-S serve.…` changes, comes first: a terminal cuts off the last columns.
    return {CANDIDATE: by_name.pop(CANDIDATE), **by_name}


def level_rows(results: Sequence[Result]) -> list[Row]:
    """Each configuration alone, by number of users: means of its turns; a percentile where all have it."""
    columns = {name: name for name in ("p50_ms", "p95_ms", "p99_ms", "batch_size")}
    columns = {"throughput_rps": "rate_rps"} | columns

    def value(rows: Sequence[TurnRow], column: str) -> float | None:
        known = all(getattr(row, column) is not None for row in rows)
        return rounded(mean(rows, column), 2) if known else None

    return [
        {"experiment": result.name, "users": users}
        | {name: value(rows, column) for name, column in columns.items()}
        for result in results
        for users, rows in sorted(by_users(result.alone, result.name).items())
    ]


def bound_rows(bounds: Mapping[str, Sequence[Bound]]) -> list[Row]:
    """Every bound of every configuration, with its share of the one before."""
    found = []
    for name, own in bounds.items():
        for bound in own:
            share = (bound.share.ratio, bound.share.low, bound.share.high) if bound.upper else (None,) * 3
            row = {"experiment": name, "bound": bound.name, "rate_rps": round(bound.rate_rps, 2)}
            columns = ("share", "share_low", "share_high")
            found.append(row | {key: rounded(one, 3) for key, one in zip(columns, share, strict=True)})
    return found


def levels_table(results: Sequence[Result]) -> str:
    """Each configuration alone: start, memory, accuracy, a lone user's latency, the best level's rate."""
    columns = {
        "ready_s": ("ready s", 1),
        "memory_mib": ("memory MiB", 0),
        "lone_p50_ms": ("p50 ms, 1 user", 1),
        "throughput_rps": ("best req/s", 1),
        "null_rps": ("null server req/s", 0),
        "cpu_percent": ("CPU %", 0),
        "gpu_percent": ("GPU %", 0),
        "photos": ("test photos", 0),
        "agreement": ("agreement", 3),
        "accuracy": ("accuracy", 3),
        "failed": ("failed", 0),
    }
    rows = []
    for result in results:
        levels = by_users(result.alone, result.name)
        busy = {column: mean(levels[max(levels)], column) for column in ("cpu_percent", "gpu_percent")}
        figures = {**result.metrics, **busy}
        cells = [number_cell(figures[key], digits) for key, (_, digits) in columns.items()]
        rows.append([f"`{result.name}`", *cells])
    return markdown_table(*without_empty(["configuration", *(head for head, _ in columns.values())], rows))


def bounds_table(snapshot: Snapshot) -> str:
    """A row per configuration: every bound with its share of the one before."""
    rows = []
    for name, bounds in snapshot.bounds.items():
        cells = {
            bound.name: number_cell(bound.rate_rps, 1)
            + (f" ({share_cell(bound.share.ratio)})" if bound.upper else "")
            for bound in bounds
        }
        rows.append([f"`{name}`", *(cells.get(bound, "-") for bound in BOUND_NAMES)])
    return markdown_table(*without_empty(["configuration", *BOUND_NAMES], rows))


def searched_tables(tuned: Tuned) -> tuple[str, str]:
    """Those that raced and are not slower, and what another value of one key would be worth."""
    finalists = [row for row in tuned.rows if row.status in NOT_SLOWER]
    knobs = [
        [f"`{row.knob}`", row.value, ratio_cell(row.ratio, row.ratio_low, row.ratio_high), row.source]
        for row in tuned.knobs
    ]
    head = ["key", "value", "times the winner's rate", "source"]
    return markdown_table(HEAD, tune_cells(finalists), 2), markdown_table(head, knobs, 2)
