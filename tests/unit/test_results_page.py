"""docs/results.md and the README's results, written from results of every configuration."""

from __future__ import annotations

import re
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from litmeter.benchmark.capacity import ProbeRow
from litmeter.benchmark.rows import ComparisonRow
from litmeter.errors import ReportError
from litmeter.params import load_params
from litmeter.paths import (
    COMPARISON,
    MACHINE,
    PICTURES_FOLDER,
    README,
    RESULTS_PAGE,
    TUNE_KNOBS,
    TUNE_METRICS,
    TUNE_PICTURE,
    TUNE_TABLE,
    BenchmarkPaths,
    CapacityPaths,
)
from litmeter.report.page import REPORT_PAGE, write_report
from litmeter.report.results_page import BEGIN, END, README_PICTURE, write_results
from litmeter.system.files import read_json, read_rows, write_json, write_rows
from litmeter.tune.rows import KnobRow, TuneRow
from tests.support.capacity import CAPACITY
from tests.support.results_project import OWN_MACHINE, write_project
from tests.support.search import WINNER, tuned


@pytest.fixture(autouse=True)
def _project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_project()


def row_of(text: str, name: str, number: int = 0) -> list[str]:
    """The cells of a table's row that begins with a configuration's name."""
    rows = [line for line in text.splitlines() if line.startswith(f"| `{name}`")]
    return [cell.strip() for cell in rows[number].strip("|").split("|")]


def test_the_readmes_results_replace_the_old_and_nothing_else() -> None:
    write_results(readme=True)
    before, _, rest = README.read_text().partition(BEGIN)
    section, _, after = rest.partition(END)
    assert (before, after) == ("# A project\n\n", "\n\nand more\n")
    assert "old" not in section
    assert row_of(section, "e1_baseline")[2:6] == ["20.0", "1", "3", "100"]
    assert row_of(section, "e2_batching")[2:5] == ["50.0", "2.50 (2.38 to 2.62)", "2"]
    assert row_of(section, "e2_batching")[-1].endswith(" (not valid)")
    assert row_of(section, "e3_workers")[2:] == ["-", "-", "-", "-", "failed requests"]
    assert f"]({README_PICTURE})" in section
    assert README_PICTURE.stat().st_size > 5000


def test_a_run_writes_neither_the_readme_nor_its_picture() -> None:
    before = README.read_text()
    write_results()
    assert README.read_text() == before
    assert not README_PICTURE.exists()
    assert RESULTS_PAGE.exists()
    assert not README_PICTURE.is_relative_to(PICTURES_FOLDER)


def test_efficiency_has_a_column_and_an_explanation_where_it_was_measured() -> None:
    def table() -> str:
        write_results()
        return RESULTS_PAGE.read_text().split("## Compared in turn")[1].split("##")[0]

    assert "fficiency" not in table()
    first, *others = read_rows(COMPARISON, ComparisonRow)
    measured = replace(first, pipeline_rps=25.0, efficiency=0.8, efficiency_low=0.75, efficiency_high=0.85)
    write_rows(COMPARISON, ComparisonRow, [measured, *others])
    assert row_of(table(), first.experiment)[5] == "0.80 (0.75 to 0.85)"
    assert row_of(table(), others[0].experiment)[5] == "-"


def test_the_page_tells_rates_accuracy_bounds_and_doubts() -> None:
    write_results()
    page = RESULTS_PAGE.read_text()
    for figure in ("0.384 GMACs", "0.768 GFLOPs", "0.991 on 111", "0.951 to 0.998"):
        assert figure in page
    assert row_of(page, "e1_baseline")[1:4] == ["3", "20.0", "18.0 to 22.0"]
    assert row_of(page, "e1_baseline", 1)[1:5] == ["20.0", "19.4 to 20.6", "1", "10"]
    assert row_of(page, "e2_batching", 1)[0] == "`e2_batching` (not valid)"
    assert row_of(page, "e1_baseline", 2)[1] == "0.997 (0.985 to 1.000)"
    assert row_of(page, "e3_workers", 3)[-2] == "-"  # no served rate
    assert "- e1_baseline at 1 user: other processes used 14% of the machine" in page
    assert "- e2_batching at 8 users: not valid: unstable" in page
    cells = ["int8", "torchvision", "4.5", "111 test", "99.1%", "95.8%", "98.2%", "-0.9"]
    assert f"| {' | '.join(cells)} |" in page
    for name in load_params().configurations():
        assert f"](../assets/results/{name}.png)" in page
        assert f"<details><summary><code>{name}</code>: " in page


@pytest.mark.parametrize(("flags", "told"), [(["avx2"], True), (["avx2", "avx512_bf16"], False)])
def test_emulated_half_precision_is_told(flags: list[str], told: bool) -> None:
    run = BenchmarkPaths("e4_half").run
    write_json(run, read_json(run) | {"dtype": "bfloat16"})
    write_json(MACHINE, OWN_MACHINE | {"cpu_flags": flags})
    for page, readme in ((README, True), (RESULTS_PAGE, False)):
        write_results(readme=readme)
        assert ("no instructions for bfloat16" in page.read_text()) is told


@pytest.mark.parametrize(("kept", "missing"), [(BEGIN, "end of results"), (END, "litmeter results")])
def test_a_readme_without_a_marker_changes_nothing(kept: str, missing: str) -> None:
    README.write_text(f"# title\n{kept}\n")
    with pytest.raises(ReportError, match=f"README.md: the marker .*{missing}.* is missing"):
        write_results(readme=True)
    assert README.read_text() == f"# title\n{kept}\n"
    assert not README_PICTURE.exists()


def write_searches(machine: str) -> None:
    """A capacity and a search, as of another day."""
    paths = CapacityPaths("candidate")
    write_json(paths.metrics, asdict(CAPACITY) | {"machine": machine, "weights_sha256": "abc"})
    write_rows(paths.probes, ProbeRow, [])
    found = tuned()
    metrics = {"combinations": 8, "raced": 1, "rounds": 30, "users": 8, "model_error": 0.06}
    write_json(TUNE_METRICS, found.metrics | metrics | {"machine": machine, "weights_sha256": "abc"})
    write_rows(TUNE_TABLE, TuneRow, [replace(WINNER, incumbent=True)])
    write_rows(TUNE_KNOBS, KnobRow, [KnobRow("precision", "half", 0.9, None, None, "predicted")])


def test_what_was_searched_on_this_machine_is_drawn_and_no_capacity_is_quoted() -> None:
    write_searches(OWN_MACHINE["id"])
    write_results(readme=True)
    write_results()
    for picture in (TUNE_PICTURE, CapacityPaths("candidate").picture):
        assert picture.stat().st_size > 5000
    write_report([])
    for page in (README, RESULTS_PAGE, REPORT_PAGE):
        text = page.read_text()
        assert ("int8 direct 2x1 b4" in text) is (page != README)
        assert not re.search(r"\b300(\.0)? requests|\b309\b", text)


def test_pictures_of_another_machine_stay_as_they_are() -> None:
    write_searches("4567")
    write_results()
    assert not TUNE_PICTURE.exists()
    assert not CapacityPaths("candidate").picture.exists()
