"""Tables of all configurations: rows of the files that DVC shows and plots, and tables of the pages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from litmeter.measure.rows import ComparisonRow
from litmeter.model.precision_rows import HEAD, precision_cells
from litmeter.params import CANDIDATE
from litmeter.report.bounds import BOUND_NAMES, Bound
from litmeter.report.claims import cause_cell, ratio_text
from litmeter.report.diagnosis import Diagnosis
from litmeter.report.printed import describe, efficiency_text
from litmeter.report.results import Result
from litmeter.report.snapshot import Snapshot, Tuned
from litmeter.system.files import rounded
from litmeter.system.tables import markdown_table, number_cell, text_table, without_empty
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
    """Every level of every configuration."""
    columns = ("users", "throughput_rps", "p50_ms", "p95_ms", "p99_ms", "batch_size", "valid")
    return [
        {"experiment": result.name} | {column: getattr(level, column) for column in columns}
        for result in results
        for level in result.levels
    ]


def efficiency_rows(results: Sequence[Result]) -> list[Row]:
    """Served rate over in-process rate, by configuration."""
    return [{"experiment": result.name, "efficiency": result.metrics["efficiency"]} for result in results]


def bound_rows(bounds: Mapping[str, Sequence[Bound]]) -> list[Row]:
    """Every bound of every configuration, with its share of the one before."""
    return [
        {
            "experiment": name,
            "bound": bound.name,
            "rate_rps": round(bound.rate_rps, 2),
            "low_rps": rounded(bound.low_rps, 2),
            "high_rps": rounded(bound.high_rps, 2),
            "share": rounded(bound.share, 3),
        }
        for name, of_configuration in bounds.items()
        for bound in of_configuration
    ]


def diagnosis_rows(diagnoses: Mapping[str, Diagnosis]) -> list[Row]:
    """The diagnosis of every configuration."""
    return [
        {
            "experiment": name,
            "cause": diagnosis.cause,
            "share": rounded(diagnosis.share, 3),
            "parameter": diagnosis.parameter,
            "text": diagnosis.text,
        }
        for name, diagnosis in diagnoses.items()
    ]


STAGE_FIELDS = ("experiment", "stage", "mean_ms")


def stage_rows(results: Sequence[Result]) -> list[Row]:
    """Mean time of a request in each stage, at each configuration's best level."""
    return [
        {"experiment": result.name, "stage": stage, "mean_ms": mean_ms}
        for result in results
        if result.best
        for stage, mean_ms in result.stage_ms(result.best.users).items()
    ]


BATCH_FIELDS = ("experiment", "users", "up_to", "batches")


def batch_rows(results: Sequence[Result]) -> list[Row]:
    """The histograms of batch sizes, by configuration and level."""
    return [
        {"experiment": result.name, "users": row.users, "up_to": row.up_to, "batches": row.batches}
        for result in results
        for row in result.batches
    ]


def named(row: ComparisonRow) -> str:
    """The name of a configuration in a table, marked if its row was kept from an earlier run."""
    return f"`{row.experiment}`" + (" (earlier)" if row.earlier else "")


def configurations_table(snapshot: Snapshot) -> str:
    """A row per configuration: its settings, how fast it is, and what holds it back."""
    rows = [
        [
            named(row),
            describe(result.serve, result.run["device"]),
            number_cell(row.rate_rps, 1),
            ratio_text(row, snapshot.reference),
            number_cell(row.rank, 0),
            number_cell(row.p95_ms, 0),
            cause_cell(result, snapshot),
        ]
        for result, row in zip(snapshot.results, snapshot.compared, strict=True)
    ]
    times = f"times {snapshot.reference}"
    head = ["configuration", "settings", "req/s", times, "rank", "p95 ms", "held back by"]
    return markdown_table(head, rows, text_columns=2)


def comparison_table(compared: Sequence[ComparisonRow], reference: str) -> str:
    """A row per configuration."""
    columns: dict[str, Callable[[ComparisonRow], str]] = {
        "configuration": named,
        "rank": lambda row: number_cell(row.rank, 0),
        "req/s": lambda row: number_cell(row.rate_rps, 1),
        "slowest to fastest round": _range_cell,
        f"times {reference}": lambda row: ratio_text(row, reference),
        "efficiency": efficiency_text,
        "p50 ms": lambda row: number_cell(row.p50_ms, 0),
        "p95 ms": lambda row: number_cell(row.p95_ms, 0),
        "p95's 95% interval": lambda row: _interval_cell(row.p95_low_ms, row.p95_high_ms, 0),
        "rounds": lambda row: str(row.rounds),
    }
    rows = [[cell(row) for cell in columns.values()] for row in compared]
    return markdown_table(*without_empty(list(columns), rows))


def _range_cell(row: ComparisonRow) -> str:
    """The lowest and the highest rate of a round, or what all were below."""
    if row.highest_rps is None:
        return "-"
    return f"{'below' if row.lowest_rps is None else f'{row.lowest_rps:.1f} to'} {row.highest_rps:.1f}"


def _interval_cell(low: float | None, high: float | None, digits: int) -> str:
    return (
        "-" if low is None or high is None else f"{number_cell(low, digits)} to {number_cell(high, digits)}"
    )


def rates_table(results: Sequence[Result], terminal: bool = False) -> str:
    """What each configuration's own benchmark measured."""
    rows = []
    for result in results:
        best, metrics = result.best, result.metrics
        ends: list[float | None] = [None] * 4
        if best is not None:
            ends = [best.low_rps, best.high_rps, best.p95_low_ms, best.p95_high_ms]
        rows.append(
            [
                f"`{result.name}`" + ("" if not best or best.valid else " (not valid)"),
                number_cell(result.rps, 1),
                _interval_cell(ends[0], ends[1], 1),
                number_cell(metrics["users"], 0),
                number_cell(metrics["p50_ms"], 0),
                number_cell(metrics["p95_ms"], 0),
                _interval_cell(ends[2], ends[3], 0),
                number_cell(metrics["p99_ms"], 0),
                number_cell(metrics["efficiency"], 2),
                number_cell(metrics["cpu_percent"], 0),
                number_cell(metrics["gpu_percent"], 0),
                number_cell(metrics["ready_s"], 1),
                number_cell(metrics["memory_mib"], 0),
                number_cell(metrics["failed"], 0),
            ]
        )
    head = "configuration|req/s|its 95% interval|users|p50 ms|p95 ms|p95's 95% interval|p99 ms|efficiency|"
    head += "CPU %|GPU %|ready s|memory MiB|failed"
    return (text_table if terminal else markdown_table)(*without_empty(head.split("|"), rows))


def accuracy_table(results: Sequence[Result]) -> str:
    """Agreement and accuracy of the served answers, a row per configuration."""
    rows = [
        [
            f"`{result.name}`",
            _share_cell(result.accuracy, "agreement"),
            _share_cell(result.accuracy, "accuracy"),
            number_cell(result.accuracy["largest_difference"], 4),
            number_cell(result.accuracy["mismatched"], 0),
        ]
        for result in results
    ]
    head = ["configuration", "agreement", "accuracy, test photos", "largest difference", "mismatched"]
    return markdown_table(head, rows)


def _share_cell(accuracy: Mapping[str, Any], key: str) -> str:
    if accuracy[key] is None:
        return "-"
    return f"{accuracy[key]:.3f} ({accuracy[f'{key}_low']:.3f} to {accuracy[f'{key}_high']:.3f})"


def precision_table(snapshot: Snapshot) -> str:
    """What each precision and preprocessing changes in the answers, and its time."""
    return markdown_table(HEAD, precision_cells(snapshot.changes, snapshot.packages), 2)


def bounds_table(snapshot: Snapshot) -> str:
    """A row per configuration: its diagnosis, and every bound with its share of the one before."""
    rows = []
    for result in snapshot.results:
        bounds = {bound.name: _bound_cell(bound) for bound in snapshot.explanation.bounds[result.name]}
        parameter = snapshot.explanation.diagnoses[result.name].parameter
        rows.append(
            [
                f"`{result.name}`",
                cause_cell(result, snapshot),
                f"`{parameter}`" if parameter else "-",
                *(bounds.get(name, "-") for name in BOUND_NAMES),
                number_cell(result.run["null_rps"], 0),
            ]
        )
    head = ["configuration", "held back by", "key for the first cause", *BOUND_NAMES, "null server"]
    return markdown_table(*without_empty(head, rows, 3), text_columns=3)


def _bound_cell(bound: Bound) -> str:
    share = "" if bound.share is None else f" (×{bound.share:.2f})"
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
