"""Tables of the pages besides that of results, and the rows of the files that DVC shows and plots."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from litmeter.measure.levels import by_users
from litmeter.measure.rows import ComparisonRow, TurnRow
from litmeter.model.precision_rows import HEAD, precision_cells
from litmeter.params import CANDIDATE
from litmeter.report.bounds import BOUND_NAMES, Bound
from litmeter.report.diagnosis import Diagnosis
from litmeter.report.results import Result, mean
from litmeter.report.snapshot import Snapshot, Tuned
from litmeter.system.files import rounded
from litmeter.system.tables import markdown_table, number_cell, without_empty
from litmeter.tune.rows import HEAD as TUNE_HEAD
from litmeter.tune.rows import NOT_SLOWER, ratio_cell, tune_cells

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
    by_name = {short[row.experiment]: significant(row.rate_rps or 0.0) for row in compared}
    # The candidate, which `-S serve.…` changes, comes first: a terminal cuts off the last columns.
    return {CANDIDATE: by_name.pop(CANDIDATE), **by_name}


def significant(value: float) -> float:
    """``value`` with three significant digits."""
    return float(f"{value:.3g}")


def level_rows(results: Sequence[Result]) -> list[Row]:
    """Each configuration alone, by number of users: means of its turns; a percentile where all have it."""
    columns = {"throughput_rps": "rate_rps"} | {
        name: name for name in ("p50_ms", "p95_ms", "p99_ms", "batch_size")
    }

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
    return [
        {
            "experiment": name,
            "bound": bound.name,
            "rate_rps": round(bound.rate_rps, 2),
            "share": rounded(bound.share.ratio, 3) if bound.share else None,
            "share_low": rounded(bound.share.low, 3) if bound.share else None,
            "share_high": rounded(bound.share.high, 3) if bound.share else None,
        }
        for name, of_configuration in bounds.items()
        for bound in of_configuration
    ]


def diagnosis_rows(diagnoses: Mapping[str, Diagnosis]) -> list[Row]:
    """The diagnosis of every configuration."""
    return [
        {"experiment": name, "cause": one.cause, "parameter": one.parameter, "text": one.text}
        for name, one in diagnoses.items()
    ]


STAGE_FIELDS = ("experiment", "stage", "mean_ms")


def stage_rows(results: Sequence[Result]) -> list[Row]:
    """Mean time of a request in each stage of the server, in the comparison."""
    return [
        {"experiment": result.name, "stage": stage, "mean_ms": round(mean_ms, 3)}
        for result in results
        for stage, mean_ms in result.stage_ms.items()
    ]


def levels_table(results: Sequence[Result]) -> str:
    """Each configuration alone: start, memory, accuracy, and a lone user's and the most users' figures."""
    rows = []
    for result in results:
        metrics, served = result.metrics, [row for row in result.alone if row.subject == result.name]
        rows.append(
            [
                f"`{result.name}`",
                number_cell(metrics["ready_s"], 1),
                number_cell(metrics["memory_mib"], 0),
                number_cell(metrics["lone_p50_ms"], 1),
                number_cell(metrics["throughput_rps"], 1),
                number_cell(metrics["null_rps"], 0),
                number_cell(mean(served, "cpu_percent"), 0),
                number_cell(mean(served, "gpu_percent"), 0),
                number_cell(metrics["agreement"], 3),
                number_cell(metrics["accuracy"], 3),
                number_cell(metrics["failed"], 0),
            ]
        )
    head = "configuration|ready s|memory MiB|p50 ms, 1 user|req/s|null server req/s|CPU %|GPU %|agreement|"
    head += "accuracy|failed"
    return markdown_table(*without_empty(head.split("|"), rows))


def precision_table(snapshot: Snapshot) -> str:
    """What each precision and preprocessing changes in the answers, and its time."""
    return markdown_table(HEAD, precision_cells(snapshot.changes, snapshot.packages), 2)


def bounds_table(snapshot: Snapshot) -> str:
    """A row per configuration: every bound with its share of the one before."""
    rows = []
    for result in snapshot.results:
        cells = {bound.name: _bound_cell(bound) for bound in snapshot.bounds[result.name]}
        rows.append([f"`{result.name}`", *(cells.get(name, "-") for name in BOUND_NAMES)])
    return markdown_table(*without_empty(["configuration", *BOUND_NAMES], rows))


def _bound_cell(bound: Bound) -> str:
    share = f" (×{bound.share.ratio:.2f})" if bound.share else ""
    return f"{number_cell(bound.rate_rps, 1)}{share}"


def tuned_table(tuned: Tuned) -> str:
    """Those that raced and are not slower."""
    finalists = [row for row in tuned.rows if row.status in NOT_SLOWER]
    return markdown_table(TUNE_HEAD, tune_cells(finalists), 2)


def knob_table(tuned: Tuned) -> str:
    """What another value of one key would be worth."""
    rows = [
        [f"`{row.knob}`", row.value, ratio_cell(row.ratio, row.ratio_low, row.ratio_high), row.source]
        for row in tuned.knobs
    ]
    return markdown_table(["key", "value", "times the winner's rate", "source"], rows, 2)
