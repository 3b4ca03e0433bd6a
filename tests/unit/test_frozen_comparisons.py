"""Turns of whole runs give the figures that they gave when they were frozen.

The turns are those of three kinds of machine: a CPU with AMX, one with AVX-512 and bfloat16 but no AMX, and
one with AVX2 alone, which emulates bfloat16. A change of the figures is a change of the statistics: it is
made on purpose, and said.
"""

from __future__ import annotations

import csv
import json

import pytest

from litmeter.measure.comparison_rows import comparison_rows
from litmeter.measure.rows import TurnRow
from tests.support.project import ROOT

FIXTURES = ROOT / "tests/fixtures"


def turns_of(machine: str, users: int) -> list[TurnRow]:
    """The served turns at one number of users, each followed by its pipeline's where that was measured."""
    turns: list[TurnRow] = []
    with (FIXTURES / f"turns_{machine}.csv").open() as lines:
        for row in csv.DictReader(lines):
            if int(row["users"]) != users:
                continue
            for work, column in (("served", "rate_rps"), ("pipeline", "pipeline_rps")):
                rate = float(row[column]) if row.get(column) else None
                if rate or work == "served":
                    name, number = row["experiment"], int(row["round"])
                    bound = float(row["bound_rps"]) if row.get("bound_rps") else None
                    turns.append(
                        TurnRow(
                            len(turns), 0.0, 1.0, number, name, work, users, rate_rps=rate, bound_rps=bound
                        )
                    )
    return turns


@pytest.mark.parametrize("machine", ["amx", "avx512_bf16", "avx2"])
def test_the_figures_are_the_frozen_ones(machine: str) -> None:
    frozen = json.loads((FIXTURES / f"figures_{machine}.json").read_text())
    rows = comparison_rows(list(frozen), "e1_baseline", turns_of(machine, 8), {}, 0.05)
    assert [row.experiment for row in rows] == list(frozen)
    for row, figures in zip(rows, frozen.values(), strict=True):
        assert {key: getattr(row, key) for key in figures} == figures, row.experiment
