"""What the README begins with: a run, its results, a report of commits; and a quick one beside them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from litmeter.paths import README, RESULTS_PAGE, BenchmarkPaths
from litmeter.say.tables import rate_cell
from litmeter.system.files import read_json
from tests.pipeline.conftest import TINY, Clone, results_of, rows_of
from tests.support.tables import read_csv


@pytest.mark.smoke
def test_a_run_writes_everything(ran: Clone) -> None:
    for name in ("e1_baseline", "candidate"):
        paths = BenchmarkPaths(name)
        metrics = read_json(ran.path / paths.metrics)
        assert metrics["throughput_rps"] > 0
        assert (metrics["failed"], metrics["mismatched"]) == (0, 0)
        turns = read_csv(ran.path / paths.turns)
        assert {row["users"] for row in turns if row["subject"] == name} == {"1", "4"}
        samples = read_csv(ran.path / paths.samples)
        for turn in turns:
            assert sum(row["turn"] == turn["turn"] for row in samples) == int(turn["sent"])
    assert {row["subject"] for row in read_csv(ran.path / "plots/turns/comparison.csv")} >= {"candidate"}
    for row in rows_of(ran).values():
        assert row["ratio_low"] <= row["ratio"] <= row["ratio_high"]
        assert row["earlier"] == ""
    assert read_json(ran.path / "metrics/over_before.json")["ratio"] is None
    assert not list(ran.path.glob("samples/unfinished/*"))
    assert list(read_json(ran.path / "metrics/summary.json")) == ["candidate", "e1"]


@pytest.mark.smoke
def test_the_results_are_written_into_the_page_and_leave_the_readme_alone(ran: Clone, origin: Path) -> None:
    rate = f" {rate_cell(rows_of(ran)['candidate']['rate_rps'])} |"
    page = (ran.path / RESULTS_PAGE).read_text()
    assert [line for line in page.splitlines() if line.startswith("| `candidate` |") and rate in line]
    for picture in re.findall(r"\]\(([^)]*\.png)\)", page):
        assert (ran.path / RESULTS_PAGE.parent / picture).exists()
    assert (ran.path / README).read_bytes() == (origin / README).read_bytes()
    changed = ran.git("diff", "--name-only", "HEAD~1").splitlines()
    written = ("metrics/", "plots/", "assets/results/", "docs/results.md", "dvc.lock")
    assert [path for path in changed if not path.startswith(written)] == []


@pytest.mark.smoke
def test_nothing_runs_again_but_the_check(ran: Clone) -> None:
    assert ran.status() == {"machine": ["always changed"]}
    assert ran.stages_run(ran.dvc("repro").stdout) == ["machine"]
    assert ran.git("status", "--porcelain") == ""


def test_a_report_of_commits_is_written_or_refused_in_a_line(ran: Clone) -> None:
    litmeter = str(ran.path / ".venv/bin/litmeter")
    ran.run(litmeter, "report", "HEAD~2", "HEAD", "--out", "both.html")
    both = (ran.path / "both.html").read_text()
    (ran.path / "both.html").unlink()
    for named in ("HEAD~2", "model.name", TINY["model"]["name"]):
        assert named in both
    ran.git("rm", "--cached", "--quiet", "metrics/comparison.json")
    incomplete = ran.git("commit-tree", ran.git("write-tree").strip(), "-m", "without a result").strip()
    ran.git("reset", "--quiet")
    refused = (("nothing", 2, "neither a revision nor an experiment"), (incomplete, 2, "makes it"))
    for revision, status, reason in refused:
        done = ran.run(litmeter, "report", revision, check=False)
        assert done.returncode == status, done.stderr
        [line] = done.stderr.splitlines()
        assert line.startswith(f"litmeter: {revision}: ")
        assert reason in line
    assert ran.git("status", "--porcelain") == ""


def test_configurations_are_compared_for_as_long_as_is_said(ran: Clone) -> None:
    litmeter = str(ran.path / ".venv/bin/litmeter")
    done = ran.run(litmeter, "compare", "candidate", "candidate", "e1_baseline", "--seconds", "5", "--json")
    found = json.loads(done.stdout)["pairs"]
    assert [(pair["name"], pair["other"]) for pair in found] == [
        ("candidate (2)", "candidate"),
        ("e1_baseline", "candidate"),
        ("e1_baseline", "candidate (2)"),
    ]
    assert all(pair["low"] <= pair["ratio"] <= pair["high"] for pair in found)
    assert "about 5 s" in done.stderr
    refused = ran.run(litmeter, "compare", "candidate", "e9", check=False)
    assert refused.returncode == 2
    assert "e9" in refused.stderr
    assert ran.git("status", "--porcelain") == ""


def test_a_quick_comparison_keeps_nothing(ran: Clone) -> None:
    before = results_of(ran)
    output = ran.run(str(ran.path / ".venv/bin/litmeter"), "quick").stdout
    assert "results are not kept" in output
    assert "candidate" in output.partition("results are not kept")[2]
    assert results_of(ran) == before
    assert ran.git("status", "--porcelain") == ""
