"""Turns of whole runs give the figures that they gave when they were frozen.

The turns are those of three kinds of machine: a CPU with AMX, one with AVX-512 and bfloat16 but no AMX, and
one with AVX2 alone, which emulates bfloat16. A change of the figures is a change of the statistics: it is
made on purpose, and said.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator

import pytest

from litmeter.measure.comparison_rows import comparison_rows
from litmeter.measure.rows import TurnRow
from tests.support.project import ROOT

FIXTURES, USERS = ROOT / "tests/fixtures", 8


def turns_of(machine: str) -> Iterator[TurnRow]:
    """The served turns, each followed by its pipeline's where that was measured."""
    with (FIXTURES / f"turns_{machine}.csv").open() as lines:
        for row in csv.DictReader(lines):
            rates = {"served": row["rate_rps"], "pipeline": row.get("pipeline_rps")}
            for work, text in rates.items():
                if int(row["users"]) == USERS and (text or work == "served"):
                    named = (int(row["round"]), row["experiment"], work, USERS)
                    known = {"rate_rps": text, "bound_rps": row.get("bound_rps")}
                    yield TurnRow(
                        0, 0.0, 1.0, *named, **{key: float(one) for key, one in known.items() if one}
                    )


@pytest.mark.parametrize("machine", ["amx", "avx512_bf16", "avx2"])
def test_the_figures_are_the_frozen_ones(machine: str) -> None:
    frozen = json.loads((FIXTURES / f"figures_{machine}.json").read_text())
    rows = comparison_rows(list(frozen), "e1_baseline", [*turns_of(machine)], {}, 0.05)
    assert [row.experiment for row in rows] == list(frozen)
    for row, figures in zip(rows, frozen.values(), strict=True):
        assert {key: getattr(row, key) for key in figures} == figures, row.experiment
