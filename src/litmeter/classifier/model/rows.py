"""What a precision costs and brings: rows of tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from litmeter.stats.agreement import Agreement

TEST, OTHER = "test", "other"
"""Splits of a PrecisionRow: photos that the model was not fitted or chosen with, and the others."""


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
class PrecisionRow(Agreement):
    """A row of plots/precisions.csv: what changes from the reference's answers to these, in a split."""

    precision: str
    preprocess: str
    split: str


def image_ms(packages: Sequence[PackageRow], precision: str) -> float | None:
    """Milliseconds of one thread for an image, at the fastest batch size; None where nothing was compiled."""
    times = [
        row.compiled_ms / row.batch_size
        for row in packages
        if row.precision == precision and row.compiled_ms is not None and row.skipped_reason is None
    ]
    return min(times, default=None)
