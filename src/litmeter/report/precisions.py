"""What a precision costs and brings, in a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from litmeter.model.precision_rows import ChangeRow, PackageRow
from litmeter.say.tables import number_cell

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
