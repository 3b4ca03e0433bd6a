"""The committed documents say what the committed results say: `make run` writes both."""

from __future__ import annotations

import pytest
from studies.tables import PAGES

from servebench.benchmark.rows import ComparisonRow
from servebench.params import Params, load_params
from servebench.paths import CEILINGS, COMPARISON, README, RESULTS_PAGE, SELFTEST, SELFTEST_PAGE, SUMMARY
from servebench.report.comparison import compared_rows
from servebench.report.explain import explain
from servebench.report.results import Result, read_results
from servebench.report.results_page import BEGIN, END, page, readme_section
from servebench.report.summary import rates
from servebench.selftest import run as selftest
from servebench.system.files import read_json
from servebench.system.rows import read_rows
from tests.support.project import ROOT


@pytest.fixture(autouse=True)
def _project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.fixture
def params() -> Params:
    return load_params()


@pytest.fixture
def results(params: Params) -> list[Result]:
    return read_results(params)


@pytest.fixture
def compared(params: Params) -> list[ComparisonRow]:
    return compared_rows(read_rows(COMPARISON, ComparisonRow), params)


def test_metrics_are_flat_and_have_the_same_ten_keys(results: list[Result]) -> None:
    keys = [list(own.metrics) for own in results]
    assert all(own == keys[0] for own in keys)
    assert len(keys[0]) == 10
    for own in results:
        assert not any(isinstance(value, dict | list) for value in own.metrics.values())


def test_the_summary_follows_from_the_comparison(compared: list[ComparisonRow]) -> None:
    assert list(read_json(SUMMARY).items()) == list(rates(compared).items())


def test_the_readmes_table_is_that_of_the_results(
    params: Params, results: list[Result], compared: list[ComparisonRow]
) -> None:
    section = README.read_text().partition(BEGIN)[2].partition(END)[0].strip()
    assert section == readme_section(params, results, compared, explain(results, read_json(CEILINGS)))


def test_the_results_page_is_that_of_the_results(
    params: Params, results: list[Result], compared: list[ComparisonRow]
) -> None:
    assert RESULTS_PAGE.read_text() == page(params, results, compared, explain(results, read_json(CEILINGS)))


def test_the_self_tests_page_shows_its_checks() -> None:
    text = SELFTEST_PAGE.read_text()
    section = text.partition(selftest.BEGIN)[2].partition(selftest.END)[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.strip().splitlines()]
    checks = read_json(SELFTEST)["checks"]
    assert [row[0] for row in rows[2:]] == [check["name"] for check in checks]
    for row, check in zip(rows[2:], checks, strict=True):
        assert row[2].split()[0] == f"{check['measured']:.2f}".rstrip("0").rstrip(".")
        assert row[-1] == ("passed" if check["passed"] else "FAILED")


@pytest.mark.parametrize("document", PAGES, ids=str)
def test_the_documents_show_what_the_studies_have_kept(document: str) -> None:
    """`python -m studies.tables` writes them."""
    text = (ROOT / document).read_text()
    for table in PAGES[document]:
        assert table().strip() in text
