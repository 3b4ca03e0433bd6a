"""Rows of a comparison: who has a ratio, an interval, a rank, or a bound alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from litmeter.measure.comparison_rows import comparison_rows
from litmeter.measure.rows import ComparisonRow, TurnRow
from litmeter.params import ComparisonSettings
from litmeter.report.printed import comparison_table
from tests.support.synthetic_results import compared

SETTINGS = ComparisonSettings(reference="reference", users=(8,), seconds=60.0)


def rows_of(rates: Mapping[str, Sequence[float | None]]) -> dict[str, ComparisonRow]:
    """By configuration, of its rates in rounds; without one it did at most 4.0."""
    turns = [
        TurnRow(number, 8, name, rate, 20, 0, None if rate else 4.0)
        for name, own in rates.items()
        for number, rate in enumerate(own)
    ]
    return {row.experiment: row for row in comparison_rows(SETTINGS, list(rates), turns, {}, [])}


def test_a_round_without_an_answer_leaves_a_bound() -> None:
    """It is no small number whose logarithm counts, nor is it left out as if the others were all."""
    rows = rows_of({"reference": [10.0] * 4, "mute": [1.0, None, 1.0, None], "silent": [None] * 4})
    for name, bound in (("mute", 0.2), ("silent", 0.4)):
        row = rows[name]
        assert (row.rate_rps, row.lowest_rps, row.highest_rps) == (None, None, 4.0)
        assert (row.ratio, row.ratio_low, row.ratio_high, row.rank) == (None, None, bound, None)
        assert f"below {bound:.2f}" in comparison_table([row])


def test_who_was_fast_but_did_not_always_answer_takes_nobodys_rank() -> None:
    rows = rows_of({"reference": [10.0] * 10, "steady": [20.0] * 10, "fitful": [90.0] * 9 + [None]})
    assert {name: row.rank for name, row in rows.items()} == {"reference": 2, "steady": 1, "fitful": None}


def test_a_configuration_dropped_after_two_rounds_has_no_rank() -> None:
    reference, fast = [10.0, 11.0, 10.0, 9.0, 10.0], [100.0, 101.0, 99.0, 98.0, 100.0]
    rows = rows_of({"reference": reference, "fast": fast, "far": [1.0, 5.0]})
    far = rows.pop("far")
    assert far.rank is far.ratio_low is far.ratio_high is None
    assert far.ratio == pytest.approx(math.sqrt(1 / 10 * 5 / 11), abs=1e-4)
    assert {name: row.rank for name, row in rows.items()} == {"reference": 2, "fast": 1}
    assert rows["fast"].ratio_high - rows["fast"].ratio_low < 2
    lines = comparison_table([*rows.values(), far]).splitlines()
    assert [line.split()[1] for line in lines[2:]] == ["fast", "reference", "far"]


def test_two_rounds_of_all_are_ranked() -> None:
    assert all(row.rank for row in rows_of({"reference": [10.0, 11.0], "other": [20.0, 22.0]}).values())


def test_failed_requests_of_all_turns_are_added_up_and_nothing_is_earlier_that_was_never_measured() -> None:
    turns = [
        TurnRow(number, 8, name, 10.0, 20, number) for name in ("reference", "other") for number in (1, 2)
    ]
    turns.append(TurnRow(0, 1, "reference", 10.0, 20, 0))
    rows = comparison_rows(SETTINGS, ["reference", "other"], turns, {}, [])
    assert [row.failed for row in rows if row.users == 8] == [3, 3]
    assert not any(row.earlier for row in rows)


SPEEDS = (1.0, 0.5, 0.9, 0.6, 1.0, 0.7, 0.5, 1.0)


def efficiencies(measured_in: range) -> ComparisonRow:
    """Of a server that reaches 0.8 of its pipeline's rate, on a machine of changing speed.

    Args:
        measured_in: rounds that have the pipeline's rate, too.
    """
    turns = [
        TurnRow(
            number, 8, "reference", 80 * speed, 20, 0, None, 100 * speed if number in measured_in else None
        )
        for number, speed in enumerate(SPEEDS)
    ]
    [row] = comparison_rows(SETTINGS, ["reference"], turns, {}, [])
    return row


def test_efficiency_is_that_of_the_rounds_that_have_both_rates_whatever_the_machines_speed() -> None:
    row = efficiencies(range(2, 6))
    assert (row.efficiency, row.efficiency_low, row.efficiency_high) == pytest.approx((0.8, 0.8, 0.8))
    assert row.pipeline_rps == pytest.approx(100 * (0.9 * 0.6 * 1.0 * 0.7) ** 0.25, abs=0.01)
    assert "0.80 (0.80 to 0.80)" in comparison_table([row])


def test_few_rounds_with_both_rates_give_an_efficiency_without_interval_and_none_no_efficiency() -> None:
    few, none = efficiencies(range(2)), efficiencies(range(0))
    assert few.efficiency == pytest.approx(0.8)
    assert few.efficiency_low is few.efficiency_high is None
    assert none.efficiency is none.pipeline_rps is None


def test_a_turn_without_an_answer_leaves_no_efficiency() -> None:
    """The others alone would show those that had luck."""
    turns = [TurnRow(number, 8, "reference", 80.0, 20, 0, None, 100.0) for number in range(5)]
    turns.append(TurnRow(5, 8, "reference", None, 0, 0, 1.0, 100.0))
    [row] = comparison_rows(SETTINGS, ["reference"], turns, {}, [])
    assert row.efficiency is row.efficiency_low is row.pipeline_rps is None


def test_a_row_without_a_turn_of_this_run_is_earlier() -> None:
    names = ["reference", "changed", "kept"]
    turns = [TurnRow(number, 8, name, 10.0, 20, 0) for name in names for number in range(4)]
    measured_now = {(8, name): [np.full(20, 50.0)] * 4 for name in ("reference", "changed")}
    before = [compared(name, 40.0, 1) for name in names if name != "changed"]
    rows = {row.experiment: row for row in comparison_rows(SETTINGS, names, turns, measured_now, before)}
    assert {name for name, row in rows.items() if row.earlier} == {"kept"}
    assert rows["kept"].p95_ms == before[1].p95_ms
    assert "kept (earlier)" in comparison_table(list(rows.values()))
