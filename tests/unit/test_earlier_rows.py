"""Rows of a comparison that were kept from an earlier run: known, and marked wherever they are shown."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from litmeter.benchmark.comparison_rows import comparison_rows
from litmeter.benchmark.rows import ComparisonRow, TurnRow
from litmeter.params import ComparisonSettings
from litmeter.paths import COMPARISON, README, RESULTS_PAGE
from litmeter.report.page import REPORT_PAGE, write_report
from litmeter.report.printed import comparison_table
from litmeter.report.results_page import write_results
from litmeter.system.files import read_rows, write_rows
from tests.support.results_project import write_project
from tests.support.synthetic_results import compared

KEPT = "e2_batching"


@pytest.fixture
def _project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_project()


def keep(name: str) -> None:
    """Have a configuration's row stand for an earlier run."""
    rows = read_rows(COMPARISON, ComparisonRow)
    write_rows(COMPARISON, ComparisonRow, [replace(row, earlier=row.experiment == name) for row in rows])


def test_a_row_without_a_turn_of_this_run_is_earlier() -> None:
    names = ["reference", "changed", "kept"]
    turns = [TurnRow(number, 8, name, 10.0, 20, 0) for name in names for number in range(4)]
    measured_now = {(8, name): [np.full(20, 50.0)] * 4 for name in ("reference", "changed")}
    before = [compared(name, 40.0, 1) for name in names if name != "changed"]
    settings = ComparisonSettings(reference="reference", users=(8,), seconds=60.0)
    rows = {row.experiment: row for row in comparison_rows(settings, names, turns, measured_now, before)}
    assert {name: row.earlier for name, row in rows.items()} == {
        "reference": False,
        "changed": False,
        "kept": True,
    }
    assert rows["kept"].p95_ms == before[1].p95_ms
    assert "kept (earlier)" in comparison_table(list(rows.values()))


@pytest.mark.usefixtures("_project")
def test_the_pages_mark_it_and_say_nothing_where_all_was_measured_together() -> None:
    for kept in (KEPT, "none"):
        keep(kept)
        write_results()
        write_results(readme=True)
        for page in (README, RESULTS_PAGE):
            text = page.read_text()
            assert (f"`{KEPT}` (earlier)" in text) is (kept == KEPT)
            assert bool(re.search(rf"earlier run\b.*: {KEPT}\.", text)) is (kept == KEPT)


@pytest.mark.usefixtures("_project")
def test_report_html_marks_it() -> None:
    keep(KEPT)
    write_report([])
    assert f"<code>{KEPT}</code> (earlier)" in REPORT_PAGE.read_text()
