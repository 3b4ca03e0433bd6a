"""Results of configurations that params.yaml no longer has are left out of sentences and pictures."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from litmeter import paths
from litmeter.measure.comparison_rows import read_comparison
from litmeter.params import load_params
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


def left_out() -> str | None:
    return paths.left_out(load_params().configurations())


@pytest.fixture
def _shrunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A project whose params.yaml has lost all experiments but KEPT."""
    monkeypatch.chdir(tmp_path)
    write_project()
    write_capacity(CANDIDATE)
    assert left_out() is None
    write_capacity(GONE[0])
    content = yaml.safe_load(Path("params.yaml").read_text())
    content["experiments"] = {name: content["experiments"][name] for name in KEPT}
    Path("params.yaml").write_text(yaml.safe_dump(content))


@pytest.mark.usefixtures("_shrunk")
def test_a_line_names_them_and_its_command_removes_them_and_nothing_else() -> None:
    (paths.BENCHMARKS / ".e9_gone.json.litmeter.tmp").touch()  # half written
    said = left_out()
    assert said is not None
    assert len(said) < 500
    named, _, command = said.partition("; remove them: ")
    assert ", ".join(GONE) in named
    assert not any(name in named for name in (*KEPT, "e9"))
    (paths.BENCHMARKS / ".e9_gone.json.litmeter.tmp").unlink()
    subprocess.run(["sh", "-c", command], check=True)
    for folder in (paths.BENCHMARKS, paths.TURNS, *paths.CAPACITY_FOLDERS):
        assert {path.stem for path in folder.iterdir()} <= {*KEPT, CANDIDATE, "comparison"}
    for own in (paths.BenchmarkPaths(KEPT[0]), paths.CapacityPaths(CANDIDATE)):
        assert own.metrics.exists()
    assert paths.COMPARISON.exists()
    assert left_out() is None


@pytest.mark.usefixtures("_shrunk")
@pytest.mark.parametrize("stale", [False, True], ids=["compared without them", "compared with them"])
def test_nothing_that_is_said_or_drawn_has_them(capsys: pytest.CaptureFixture[str], stale: bool) -> None:
    rows = read_comparison().rows
    kept = [row for row in rows if stale or row.experiment not in GONE]
    write_comparison(kept)
    report.main()
    assert (", ".join(GONE) in " ".join(capsys.readouterr().out.split())) is stale
    assert list(read_json(paths.SUMMARY)) == [CANDIDATE, "e1", "e7"]
    snapshot = read_snapshot()
    tables = (paths.LEVELS, paths.BOUNDS, paths.DIAGNOSIS, paths.STAGES)
    for text in (*(path.read_text() for path in tables), page(snapshot), render([snapshot])):
        assert not any(name in text for name in GONE)
        assert all(name in text for name in KEPT)


def test_ranks_and_shares_are_among_those_that_stay() -> None:
    third = replace(compared("c", 15.0, 3), share_of_fastest=0.25)
    everyone = [fastest, *_] = [compared("a", 60.0, 1), compared("b", 30.0, 2), third]
    assert only(["a", "b", "c"], everyone) == everyone
    assert only(["a", "c"], everyone) == [fastest, replace(third, rank=2)]
    left = [(row.rank, row.share_of_fastest, row.share_low) for row in only(["b", "c"], everyone)]
    assert left == [(1, 1.0, None), (2, 0.5, None)]
