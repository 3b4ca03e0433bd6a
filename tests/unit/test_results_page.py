"""docs/results.md and the README's results, written from results of every configuration."""

from __future__ import annotations

import re
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from litmeter.errors import ReportError
from litmeter.measure.capacity import ProbeRow
from litmeter.measure.rows import ComparisonRow
from litmeter.params import load_params
from litmeter.paths import (
    COMPARISON,
    MACHINE,
    README,
    TUNE_KNOBS,
    TUNE_METRICS,
    TUNE_PICTURE,
    TUNE_TABLE,
    BenchmarkPaths,
    CapacityPaths,
)
from litmeter.report.results_page import BEGIN, END, README_PICTURE, page, readme_section, write_results
from litmeter.report.snapshot import read_snapshot
from litmeter.system.files import read_json, read_rows, write_json, write_rows
from litmeter.tune.rows import KnobRow, TuneRow
from tests.support.capacity import CAPACITY
from tests.support.results_project import OWN_MACHINE, searched, write_project


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


def test_efficiency_has_a_column_and_an_explanation_where_it_was_measured() -> None:
    def table() -> str:
        return page(read_snapshot()).split("## Compared in turn")[1].split("##")[0]

    assert "fficiency" not in table()
    first, *others = read_rows(COMPARISON, ComparisonRow)
    measured = replace(first, pipeline_rps=25.0, efficiency=0.8, efficiency_low=0.75, efficiency_high=0.85)
    write_rows(COMPARISON, ComparisonRow, [measured, *others])
    assert row_of(table(), first.experiment)[5] == "0.80 (0.75 to 0.85)"
    assert row_of(table(), others[0].experiment)[5] == "-"


def test_the_page_tells_rates_accuracy_bounds_and_doubts() -> None:
    text = page(read_snapshot())
    for figure in ("0.384 GMACs", "0.768 GFLOPs", "0.991 on 111", "0.951 to 0.998"):
        assert figure in text
    assert row_of(text, "e1_baseline")[1:4] == ["3", "20.0", "18.0 to 22.0"]
    assert row_of(text, "e1_baseline", 1)[1:5] == ["20.0", "19.4 to 20.6", "1", "10"]
    assert row_of(text, "e2_batching", 1)[0] == "`e2_batching` (not valid)"
    assert row_of(text, "e1_baseline", 2)[1] == "0.997 (0.985 to 1.000)"
    assert row_of(text, "e3_workers", 3)[-2] == "-"  # no served rate
    assert "- e1_baseline at 1 user: other processes used 14% of the machine" in text
    assert "- e2_batching at 8 users: not valid: unstable" in text
    cells = ["int8", "torchvision", "4.5", "111 test", "99.1%", "95.8%", "98.2%", "-0.9"]
    assert f"| {' | '.join(cells)} |" in text
    for name in load_params().configurations():
        assert f"](../assets/results/{name}.png)" in text
        assert f"<details><summary><code>{name}</code>: " in text


@pytest.mark.parametrize(("flags", "told"), [(["avx2"], True), (["avx2", "avx512_bf16"], False)])
def test_emulated_half_precision_is_told(flags: list[str], told: bool) -> None:
    run = BenchmarkPaths("e4_half").run
    write_json(run, read_json(run) | {"dtype": "bfloat16"})
    write_json(MACHINE, OWN_MACHINE | {"cpu_flags": flags})
    snapshot = read_snapshot()
    for text in (readme_section(snapshot), page(snapshot)):
        assert ("no instructions for bfloat16" in text) is told


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
    found = searched()
    write_json(TUNE_METRICS, {**found.metrics, "machine": machine, "weights_sha256": "abc"})
    write_rows(TUNE_TABLE, TuneRow, found.rows)
    write_rows(TUNE_KNOBS, KnobRow, found.knobs)


def test_what_was_searched_on_this_machine_is_drawn_and_no_capacity_is_quoted() -> None:
    write_searches(OWN_MACHINE["id"])
    write_results()
    for picture in (TUNE_PICTURE, CapacityPaths("candidate").picture):
        assert picture.stat().st_size > 5000
    snapshot = read_snapshot()
    for text, told in ((readme_section(snapshot), False), (page(snapshot), True)):
        assert ("int8 direct 2x1 b4" in text) is told
        assert not re.search(r"\b300(\.0)? requests|\b309\b", text)


def test_pictures_of_another_machine_stay_as_they_are() -> None:
    write_searches("4567")
    write_results()
    assert not TUNE_PICTURE.exists()
    assert not CapacityPaths("candidate").picture.exists()
