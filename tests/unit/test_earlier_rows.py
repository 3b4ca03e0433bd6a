"""Rows of a comparison that were kept from an earlier run: known, and marked wherever they are shown."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from litmeter.benchmark.comparison_rows import comparison_rows
from litmeter.benchmark.rows import ComparisonRow, TurnRow
from litmeter.params import ComparisonSettings
from litmeter.paths import COMPARISON, README, RESULTS_PAGE
from litmeter.report.charts.compared import comparison
from litmeter.report.html.write import write_report
from litmeter.report.printed import comparison_table
from litmeter.report.results_page import write_results
from litmeter.system.files import read_rows, write_rows
from tests.support.project import ROOT
from tests.support.results_project import write_project
from tests.support.synthetic_results import compared

KEPT = "e2_batching"
SENTENCE = f"Kept from an earlier run, as nothing that they depend on has changed: {KEPT}."


@pytest.fixture
def _project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_project()
    (tmp_path / ".dvc").symlink_to(ROOT / ".dvc")


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
def test_readme_and_page_mark_it() -> None:
    keep(KEPT)
    write_results()
    for page, tables in ((README, 1), (RESULTS_PAGE, 1)):
        text = page.read_text()
        assert text.count(f"| `{KEPT}` (earlier) | ") == tables
        assert text.count(SENTENCE) == 1
        assert "`e1_baseline` (earlier)" not in text


@pytest.mark.usefixtures("_project")
def test_nothing_is_said_where_all_was_measured_together() -> None:
    write_results()
    for page in (README, RESULTS_PAGE):
        assert "earlier" not in page.read_text()


@pytest.mark.usefixtures("_project")
def test_the_html_report_marks_it() -> None:
    keep(KEPT)
    write_report([])
    text = Path("report.html").read_text()
    assert f"<code>{KEPT}</code> (earlier)" in text
    assert SENTENCE in text


def test_the_chart_of_ratios_marks_it() -> None:
    rows = [
        compared("e1", 20.0, 3),
        replace(compared("e2", 50.0, 2), earlier=True),
        replace(compared("e3", 2.0, None), earlier=True),
    ]
    notes = comparison(rows, "e1").y.notes
    assert notes == ("2.50 (2.38 to 2.62), earlier", "1.00", "0.10, not ranked, earlier")
