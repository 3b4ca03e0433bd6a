"""An experiment that is added, edited and removed."""

from __future__ import annotations

import shutil
from pathlib import Path

from litmeter.paths import BenchmarkPaths
from litmeter.system.files import read_json
from tests.pipeline.conftest import TINY, Clone
from tests.support.tables import read_csv


def test_a_new_experiment_reaches_every_table_until_it_is_removed(ran: Clone) -> None:
    try:
        mine = {"precision": "half", "transport": "direct"}
        ran.change({"experiments": {**TINY["experiments"], "e8_mine": mine}})
        assert ran.stages_run(ran.dvc("repro").stdout) == [
            "machine",
            "benchmark@e8_mine",
            "comparison",
            "report",
        ]
        assert list(read_json(ran.path / "metrics/summary.json")) == ["candidate", "e1", "e8"]
        for table in ("levels", "efficiency", "bounds", "diagnosis", "stages", "batches"):
            rows = read_csv(ran.path / f"plots/{table}.csv")
            assert {row["experiment"] for row in rows} == {"e1_baseline", "e8_mine", "candidate"}, table
        assert (ran.path / "assets/results/e8_mine.png").exists()
        assert "e8_mine.json" in ran.dvc("metrics", "show", "metrics/benchmark").stdout
        page = Path(ran.dvc("plots", "show").stdout.strip().removeprefix("file://"))
        assert page.read_text().count("e8_mine") >= 4
        run_removal(ran)
        for table in ("levels", "efficiency", "bounds", "diagnosis", "stages", "batches"):
            assert "e8_mine" not in (ran.path / f"plots/{table}.csv").read_text()
        assert not (ran.path / "assets/results/e8_mine.png").exists()
        status = ran.git("status", "--porcelain", "metrics", "plots", "assets", "samples")
        assert not [line for line in status.splitlines() if line.startswith("??")]
    finally:
        ran.git("checkout", "-q", ".")
        ran.git("clean", "-fdq", "metrics", "plots", "assets")
        ran.dvc("checkout", "-q", "--force")


def run_removal(ran: Clone) -> None:
    """Take e8_mine out again, and another: the check names both, and the command that removes them."""
    other = BenchmarkPaths("e9_gone")
    shutil.copy(ran.path / BenchmarkPaths("e8_mine").metrics, ran.path / other.metrics)
    shutil.copytree(ran.path / BenchmarkPaths("e8_mine").folder, ran.path / other.folder)
    ran.change({"experiments": TINY["experiments"], "train": {"epochs": 2}})
    refused = ran.dvc("repro", check=False)
    assert refused.returncode == 255
    assert ran.stages_run(refused.stdout) == ["machine"]
    [said] = [line for line in refused.stderr.splitlines() if line.startswith("machine: ")]
    explained, _, command = said.partition("; remove them: ")
    assert explained == (
        "machine: there are results of e8_mine, e9_gone, but params.yaml has only e1_baseline, candidate"
    )
    assert command.startswith("rm -r ")
    ran.run("sh", "-c", command)
    ran.change({"train": {"epochs": 1}})
    assert ran.stages_run(ran.dvc("repro").stdout) == ["machine", "comparison", "report"]


def test_editing_one_experiment_measures_that_one(ran: Clone) -> None:
    try:
        edited = {**TINY["experiments"], "e1_baseline": {"precision": "half"}}
        ran.change({"experiments": edited})
        status = ran.status()
        assert set(status) == {"machine", "benchmark@e1_baseline", "comparison", "report"}
    finally:
        ran.git("checkout", "-q", ".")
