"""Turns of whole runs give the figures that they gave when they were frozen.

The turns are those of plots/comparison_turns.csv in the commits of three kinds of machine: a CPU with AMX,
one with AVX-512 and bfloat16 but no AMX, and one with AVX2 alone, which emulates bfloat16. A change of the
figures is a change of the statistics: it is made on purpose, and said.
"""

from __future__ import annotations

import csv
import json

import pytest

from litmeter.measure.comparison_rows import comparison_rows
from litmeter.measure.rows import TurnRow
from litmeter.params import ComparisonSettings
from tests.support.project import ROOT

FIXTURES = ROOT / "tests/fixtures"
SETTINGS = ComparisonSettings(reference="e1_baseline", users=(8,), seconds=330.0)


def number(text: str | None) -> float | None:
    return float(text) if text else None


def turns_of(machine: str) -> list[TurnRow]:
    with (FIXTURES / f"turns_{machine}.csv").open() as lines:
        return [
            TurnRow(
                int(row["round"]),
                int(row["users"]),
                row["experiment"],
                number(row["rate_rps"]),
                int(row["answers"]),
                int(row.get("failed", 0)),
                number(row.get("bound_rps")),
                number(row.get("pipeline_rps")),
            )
            for row in csv.DictReader(lines)
        ]


@pytest.mark.parametrize("machine", ["amx", "avx512_bf16", "avx2"])
def test_the_figures_are_the_frozen_ones(machine: str) -> None:
    frozen = json.loads((FIXTURES / f"figures_{machine}.json").read_text())
    rows = {
        row.experiment: row
        for row in comparison_rows(SETTINGS, list(frozen), turns_of(machine), {}, [])
        if row.users == 8
    }
    for name, figures in frozen.items():
        assert {key: getattr(rows[name], key) for key in figures} == figures, name
