"""Rows of a comparison that were kept from an earlier run: known, and marked wherever they are shown."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from litmeter.measure.rows import ComparisonRow
from litmeter.paths import COMPARISON, README, RESULTS_PAGE
from litmeter.report.page import REPORT_PAGE, write_report
from litmeter.report.results_page import write_results
from litmeter.system.files import read_rows, write_rows
from tests.support.results_project import write_project

KEPT = "e2_batching"


@pytest.fixture(autouse=True)
def _project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_project()


def keep(name: str) -> None:
    """Have a configuration's row stand for an earlier run."""
    rows = read_rows(COMPARISON, ComparisonRow)
    write_rows(COMPARISON, ComparisonRow, [replace(row, earlier=row.experiment == name) for row in rows])


def test_the_pages_mark_it_and_say_nothing_where_all_was_measured_together() -> None:
    for kept in (KEPT, "none"):
        keep(kept)
        write_results()
        write_results(readme=True)
        for page in (README, RESULTS_PAGE):
            text = page.read_text()
            assert (f"`{KEPT}` (earlier)" in text) is (kept == KEPT)
            assert bool(re.search(rf"earlier run\b.*: {KEPT}\.", text)) is (kept == KEPT)


def test_report_html_marks_it() -> None:
    keep(KEPT)
    write_report([])
    assert f"<code>{KEPT}</code> (earlier)" in REPORT_PAGE.read_text()
