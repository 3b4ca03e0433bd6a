"""What a precision costs and brings: rows of tables, and how they are shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from litmeter.say.tables import number_cell
from litmeter.stats.change import Change

TEST, OTHER = "test", "other"
"""Splits of a ChangeRow: photos that the model was not fitted or chosen with, and the others."""


@dataclass(frozen=True)
class PackageRow:
    """A row of plots/compiled.csv: the package of a precision and batch size, as ``Package`` describes it."""

    precision: str
    batch_size: int
    eager_ms: float | None
    compiled_ms: float | None
    parts_ms: float | None
    compile_s: float
    skipped_reason: str | None
    remark: str | None = None


@dataclass(frozen=True)
class ChangeRow(Change):
    """A row of plots/precisions.csv: what changes from the reference's answers to these, in a split."""

    precision: str
    preprocess: str
    split: str


COLUMNS: Mapping[str, Callable[[ChangeRow, Sequence[PackageRow]], str]] = {
    "precision": lambda row, _: row.precision,
    "preprocess": lambda row, _: row.preprocess,
    "ms an image": lambda row, packages: number_cell(image_ms(packages, row.precision), 1),
    "photos": lambda row, _: f"{row.photos} {row.split}",
    "same label": lambda row, _: f"{row.agreement:.1%}",
    "at least": lambda row, _: f"{row.agreement_low:.1%}",
    "accuracy": lambda row, _: f"{row.accuracy:.1%}",
    "change": lambda row, _: f"{100 * row.accuracy_change:+.1f}",
    "probability, mean change": lambda row, _: f"{row.mean_change:.4f}",
    "largest": lambda row, _: f"{row.largest_change:.3f}",
    "divergence": lambda row, _: f"{row.divergence:.5f}",
}
HEAD = tuple(COLUMNS)


def precision_cells(changes: Sequence[ChangeRow], packages: Sequence[PackageRow]) -> list[list[str]]:
    """A row of cells for each of ``changes``, under HEAD."""
    return [[cell(row, packages) for cell in COLUMNS.values()] for row in changes]


def image_ms(packages: Sequence[PackageRow], precision: str) -> float | None:
    """Milliseconds of one thread for an image, at the fastest batch size; None where nothing was compiled."""
    times = [
        row.compiled_ms / row.batch_size
        for row in packages
        if row.precision == precision and row.compiled_ms is not None and row.skipped_reason is None
    ]
    return min(times, default=None)
