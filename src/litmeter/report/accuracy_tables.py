"""Tables of how right the answers are: those that were served, and those of each precision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from litmeter.inference.precision_rows import HEAD, ChangeRow, PackageRow, precision_cells
from litmeter.report.results import Result
from litmeter.system.tables import markdown_table, number_cell


def precision_table(changes: Sequence[ChangeRow], packages: Sequence[PackageRow]) -> str:
    """What each precision and preprocessing changes in the answers, and its time."""
    return markdown_table(HEAD, precision_cells(changes, packages), 2)


def accuracy_table(results: Sequence[Result]) -> str:
    """Agreement and accuracy of the served answers, a row per configuration."""
    rows = [
        [
            f"`{result.name}`",
            _share(result.accuracy, "agreement"),
            _share(result.accuracy, "accuracy"),
            number_cell(result.accuracy["largest_difference"], 4),
            number_cell(result.accuracy["mismatched"], 0),
        ]
        for result in results
    ]
    head = ["configuration", "agreement", "accuracy, test photos", "largest difference", "mismatched"]
    return markdown_table(head, rows)


def _share(accuracy: Mapping[str, Any], key: str) -> str:
    if accuracy[key] is None:
        return "-"
    return f"{accuracy[key]:.3f} ({accuracy[f'{key}_low']:.3f} to {accuracy[f'{key}_high']:.3f})"
