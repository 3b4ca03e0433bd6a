"""What a precision costs and brings: rows of tables."""

from __future__ import annotations

from dataclasses import dataclass

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
