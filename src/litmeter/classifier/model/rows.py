"""Rows of tables: the time of compiled packages, and the effect of precisions on the answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from litmeter.stats.agreement import Agreement

TEST, OTHER = "test", "other"
"""Splits of a PrecisionRow: the test photos, and those that the model was fitted or chosen by."""


@dataclass(frozen=True)
class PackageRow:
    """A row of plots/compiled.csv: a package; ``Package`` describes the fields."""

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
    """A row of plots/precisions.csv: how far the answers on a split are from the reference answers."""

    precision: str
    preprocess: str
    split: str


def image_ms(packages: Sequence[PackageRow], precision: str) -> float | None:
    """Milliseconds for an image on one thread, at the fastest batch size; None without a package."""
    times = [
        row.compiled_ms / row.batch_size
        for row in packages
        if row.precision == precision and row.compiled_ms is not None and row.skipped_reason is None
    ]
    return min(times, default=None)
