"""docs/results.md and the README's results, written from results of every configuration."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import pytest

from litmeter.benchmark.capacity import ProbeRow
from litmeter.benchmark.rows import ComparisonRow
from litmeter.errors import ReportError
from litmeter.params import load_params
from litmeter.paths import COMPARISON, MACHINE, README, RESULTS_PAGE, BenchmarkPaths, CapacityPaths
from litmeter.report import capacity
from litmeter.report.results_page import BEGIN, END, write_results
from litmeter.report.snapshot import read_snapshot
from litmeter.system.files import read_json, read_rows, write_json, write_rows
from tests.support.capacity import CAPACITY
from tests.support.results_project import OWN_MACHINE, write_project


@pytest.fixture(autouse=True)
def _project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_project()


def row_of(text: str, name: str, number: int = 0) -> list[str]:
    """The cells of a table's row that begins with a configuration's name."""
    rows = [line for line in text.splitlines() if line.startswith(f"| `{name}`")]
    return [cell.strip() for cell in rows[number].strip("|").split("|")]


def test_the_readmes_table_replaces_the_old_and_nothing_else() -> None:
    write_results()
    before, _, rest = README.read_text().partition(BEGIN)
    section, _, after = rest.partition(END)
    assert (before, after) == ("# A project\n\n", "\n\nand more\n")
    assert "old" not in section
    assert "A CPU, 2 cores, no GPU; tiny at 224 px. All configurations" in section
    assert row_of(section, "e1_baseline")[2:6] == ["20.0", "1", "3", "100"]
    assert row_of(section, "e2_batching")[2:5] == ["50.0", "2.50 (2.38 to 2.62)", "2"]
    assert row_of(section, "e2_batching")[-1].endswith(" (not valid)")
    assert row_of(section, "e3_workers")[2:] == ["-", "-", "-", "-", "failed requests"]
    assert section.strip().startswith(
        "`e4_half` does 60.0 requests/s from 8 users, 3.00 (2.85 to 3.15) times"
    )
    assert "whether it or `candidate` is fastest is not resolved." in section
    assert "](assets/results/comparison.png)" in section


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
    assert "Efficiency is the served rate over that of the same decode" in table()


def test_the_page_tells_rates_accuracy_bounds_and_doubts() -> None:
    write_results()
    page = RESULTS_PAGE.read_text()
    assert "One image costs 0.384 GMACs, 0.768 GFLOPs" in page
    assert "accuracy 0.991 on 111 test photos (95% interval 0.951 to 0.998)" in page
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
    write_results()
    sentence = "This CPU has no instructions for bfloat16 and emulates it, many times slower and not compiled"
    for page in (README, RESULTS_PAGE):
        assert (f"{sentence}: e4_half." in page.read_text()) is told


def test_writing_twice_changes_nothing() -> None:
    write_results()
    before = README.read_text(), RESULTS_PAGE.read_text()
    write_results()
    assert (README.read_text(), RESULTS_PAGE.read_text()) == before


@pytest.mark.parametrize(("kept", "missing"), [(BEGIN, "end of results"), (END, "litmeter results")])
def test_a_readme_without_a_marker_changes_nothing(kept: str, missing: str) -> None:
    README.write_text(f"# title\n{kept}\n")
    with pytest.raises(ReportError, match=f"README.md: the marker .*{missing}.* is missing"):
        write_results()
    assert README.read_text() == f"# title\n{kept}\n"
    assert not RESULTS_PAGE.exists()


def test_capacities_are_those_of_the_present_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capacity, "provenance", lambda params, name: {})
    paths = CapacityPaths("candidate")
    write_json(paths.metrics, asdict(CAPACITY))
    write_rows(paths.probes, ProbeRow, [])
    assert list(read_snapshot().capacities) == ["candidate"]
    assert read_snapshot("HEAD").capacities == {}


def test_the_readme_says_what_the_candidate_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    of_this = {"machine": "0123"}
    monkeypatch.setattr(capacity, "provenance", lambda params, name: of_this)
    paths = CapacityPaths("candidate")
    write_json(paths.metrics, asdict(CAPACITY) | of_this)
    write_rows(paths.probes, ProbeRow, [])
    write_results()
    assert (
        "`candidate` takes 300.0 requests a second (290.0 to 310.0) with 95% of them within 100 ms, 90% of "
        "the 333.0 that a closed loop reached meanwhile; 1,000 a second need 5 such machines, 1 of them "
        "spare."
    ) in README.read_text()
