"""Tables of all configurations: rows of the files that DVC plots, and a comparison for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from litmeter.report.bounds import Bound
from litmeter.report.losses import Diagnosis
from litmeter.report.results import Result
from litmeter.system.files import rounded
from litmeter.system.tables import pluralise

Row = dict[str, Any]


def level_rows(results: Sequence[Result]) -> list[Row]:
    """Every level of every configuration."""
    return [
        {
            "experiment": result.name,
            "users": level.users,
            "throughput_rps": level.throughput_rps,
            "p50_ms": level.p50_ms,
            "p95_ms": level.p95_ms,
            "p99_ms": level.p99_ms,
            "batch_size": level.batch_size,
            "valid": level.valid,
        }
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


def results_table(results: Sequence[Result]) -> str:
    """The results of each configuration, for a terminal; an asterisk marks a best level that is not valid."""
    head = f"{'experiment':16} {'req/s':>8} {'users':>6} {'p50 ms':>8} {'p95 ms':>8} {'p99 ms':>8}"
    head += (
        f" {'in-process':>11} {'efficiency':>11} {'agreement':>10} {'accuracy':>9} {'ready s':>8} {'MiB':>6}"
    )
    lines = [head]
    for result in results:
        metrics, answers = result.metrics, result.accuracy
        mark = "*" if result.best and not result.best.valid else " "
        columns = [  # value, width, digits, suffix
            (metrics["throughput_rps"], 7, 1, mark),
            (metrics["users"], 6, 0, ""),
            (metrics["p50_ms"], 8, 1, ""),
            (metrics["p95_ms"], 8, 1, ""),
            (metrics["p99_ms"], 8, 1, ""),
            (result.pipeline.pipeline_rps, 11, 1, ""),
            (metrics["efficiency"], 11, 2, ""),
            (answers["agreement"], 10, 3, ""),
            (answers["accuracy"], 9, 3, ""),
            (metrics["ready_s"], 8, 1, ""),
            (metrics["memory_mib"], 6, 0, ""),
        ]
        cells = [
            (f"{'-':>{width}}" if value is None else f"{value:>{width}.{digits}f}") + suffix
            for value, width, digits, suffix in columns
        ]
        lines.append(" ".join([f"{result.name:16}", *cells]))
    return "\n".join(lines)


def remarks(results: Sequence[Result]) -> list[str]:
    """A line for each level that is not valid or has warnings, and for mismatched answers."""
    return [
        f"{result.name} at {pluralise(level.users, 'user')}: {text}"
        for result in results
        for level in result.levels
        for text in (f"not valid: {level.invalid_reason}" if not level.valid else "", level.warnings)
        if text
    ] + [
        f"{result.name}: {result.accuracy['mismatched']} of {result.accuracy['answers']} answers belong to "
        "another request"
        for result in results
        if result.accuracy["mismatched"]
    ]
