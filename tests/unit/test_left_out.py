"""Results of configurations that params.yaml no longer has are left out of sentences and pictures."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from litmeter.measure.comparison_rows import read_comparison
from litmeter.params import load_params
from litmeter.paths import (
    BENCHMARKS,
    BOUNDS,
    CAPACITY_FOLDERS,
    DIAGNOSIS,
    LEVELS,
    STAGES,
    SUMMARY,
    TURNS,
    BenchmarkPaths,
    CapacityPaths,
    left_out,
)
from litmeter.report.pages import page, render
from litmeter.report.snapshot import only, read_snapshot
from litmeter.settings import CANDIDATE
from litmeter.stages import report
from litmeter.system.files import read_json
from tests.support.capacity import write_capacity
from tests.support.results_project import write_project
from tests.support.synthetic_results import compared, write_comparison

KEPT = ("e1_baseline", "e7_tuned")
GONE = ("e2_batching", "e3_workers", "e4_half", "e5_timeout", "e6_batch_cap")


@pytest.fixture(autouse=True)
def _empty_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def keep(*names: str) -> None:
    """Take all other experiments out of params.yaml."""
    content = yaml.safe_load(Path("params.yaml").read_text())
    content["experiments"] = {name: content["experiments"][name] for name in names}
    Path("params.yaml").write_text(yaml.safe_dump(content))


def test_a_line_names_them_and_its_command_removes_them_and_nothing_else() -> None:
    write_project()
    write_capacity(CANDIDATE)
    assert left_out(load_params().configurations()) is None
    write_capacity(GONE[0])
    keep(*KEPT)
    said = left_out(load_params().configurations())
    assert said is not None
    assert len(said) < 500
    named, _, command = said.partition("; remove them: ")
    assert ", ".join(GONE) in named
    assert not any(name in named for name in KEPT)
    subprocess.run(["sh", "-c", command], check=True)
    for folder in (BENCHMARKS, TURNS, *CAPACITY_FOLDERS):
        assert {path.stem for path in folder.iterdir()} <= {*KEPT, CANDIDATE, "comparison"}
    assert BenchmarkPaths(KEPT[0]).metrics.exists()
    assert CapacityPaths(CANDIDATE).metrics.exists()
    assert left_out(load_params().configurations()) is None


def test_half_written_results_are_none() -> None:
    half = Path("metrics/benchmark/.e9_gone.json.litmeter.tmp")
    half.parent.mkdir(parents=True)
    half.touch()
    assert left_out(KEPT) is None


def test_nothing_that_is_said_or_drawn_has_them(capsys: pytest.CaptureFixture[str]) -> None:
    """With a comparison that was run without them, and with one that has them still."""
    write_project()
    write_capacity(CANDIDATE)
    write_capacity(GONE[0])
    keep(*KEPT)
    stale = read_comparison().rows
    for rows in ([row for row in stale if row.experiment not in GONE], stale):
        write_comparison(rows)
        report.main()
        told = " ".join(capsys.readouterr().out.split())
        assert (", ".join(GONE) in told) is (rows is stale)
        assert list(read_json(SUMMARY)) == [CANDIDATE, "e1", "e7"]
        snapshot = read_snapshot()
        written = [path.read_text() for path in (LEVELS, BOUNDS, DIAGNOSIS, STAGES)]
        for text in (*written, page(snapshot), render([snapshot])):
            assert not any(name in text for name in GONE)
            assert all(name in text for name in KEPT)


def test_ranks_and_shares_are_among_those_that_stay() -> None:
    fastest, second = compared("a", 60.0, 1), compared("b", 30.0, 2)
    third = replace(compared("c", 15.0, 3), share_of_fastest=0.25)
    everyone = [fastest, second, third]
    assert only(["a", "b", "c"], everyone) == everyone
    assert only(["a", "c"], everyone) == [fastest, replace(third, rank=2)]
    left = only(["b", "c"], everyone)
    found = [(row.rank, row.share_of_fastest, row.share_low) for row in left]
    assert found == [(1, 1.0, None), (2, 0.5, None)]
