"""An experiment of DVC's, a configuration that is added, and the way back."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path

import pytest

from litmeter.paths import COMPARISON, OVER_BEFORE, BenchmarkPaths
from litmeter.system.files import read_json
from tests.pipeline.conftest import TINY, Clone, rows_of
from tests.support.tables import read_csv

MINE, ADDED = "e8_mine", {"precision": "half", "transport": "direct"}
CANDIDATE, NEW = (BenchmarkPaths(name) for name in ("candidate", MINE))
TABLES = ("levels", "bounds", "diagnosis", "stages")


@pytest.fixture
def restored(ran: Clone) -> Iterator[Clone]:
    yield ran
    ran.restore()


@pytest.mark.smoke
def test_half_precision_with_a_new_configuration(restored: Clone) -> None:
    """What `-S serve.…` runs without a new one, test_changes.py shows."""
    run_half(restored)
    check_tables(restored)
    check_differences(restored)
    check_report(restored)


def test_the_way_back(restored: Clone) -> None:
    clone = restored
    before = read_json(clone.path / CANDIDATE.metrics)
    clone.change({"experiments": {**TINY["experiments"], MINE: ADDED}, "serve": {"precision": "half"}})
    clone.dvc("repro")
    leave_out_results_of_nobody(clone)
    assert read_json(clone.path / CANDIDATE.metrics) != before
    check_change(clone, "half", "full")
    for table in TABLES:
        assert MINE not in (clone.path / f"plots/{table}.csv").read_text()
    assert "??" not in clone.git("status", "--porcelain", "metrics", "plots", "assets", "samples")


def run_half(clone: Clone) -> None:
    """As the README does it, with one entry more in params.yaml."""
    clone.change({"experiments": {**TINY["experiments"], MINE: ADDED}})
    done = clone.dvc("exp", "run", "-S", "serve.precision=half")
    stages = ["machine", "packages", f"benchmark@{MINE}", "candidate", "comparison", "report"]
    assert clone.stages_run(done.stdout) == stages
    check_change(clone, "full", "half")


def check_change(clone: Clone, *precisions: str) -> None:
    """The candidate before and after, measured in the same rounds."""
    found = read_json(clone.path / OVER_BEFORE)
    assert found["changes"] == {"precision": [*precisions]}
    assert found["low"] <= found["ratio"] <= found["high"]


def check_tables(clone: Clone) -> None:
    assert list(read_json(clone.path / "metrics/summary.json")) == ["candidate", "e1", "e8"]
    for table in TABLES:
        rows = read_csv(clone.path / f"plots/{table}.csv")
        assert {row["experiment"] for row in rows} == {"e1_baseline", MINE, "candidate"}, table
    assert f"{MINE}.json" in clone.dvc("metrics", "show", "metrics/benchmark").stdout
    page = Path(clone.dvc("plots", "show").stdout.strip().removeprefix("file://")).read_text()
    for name in ("e1_baseline", MINE, "candidate"):
        assert page.count(name) >= 4


def check_differences(clone: Clone) -> None:
    """To the last commit."""
    diff = json.loads(clone.dvc("metrics", "diff", "--all", "--json").stdout)
    assert set(diff) == {"metrics/summary.json", "metrics/over_before.json"}
    over_before = read_json(clone.path / OVER_BEFORE)
    told = {key: found["new"] for key, found in diff["metrics/over_before.json"].items()}
    assert told == {key: over_before[key] for key in ("ratio", "low", "high")}
    old, new = (rows_of(clone, text)["candidate"] for text in (clone.git("show", f"HEAD:{COMPARISON}"), None))
    assert old != new
    changed = diff["metrics/summary.json"]["candidate"]
    assert changed["old"] == float(f"{old['rate_rps']:.3g}")
    assert changed["new"] == float(f"{new['rate_rps']:.3g}")
    shown = clone.dvc("exp", "show", "--only-changed", "--csv").stdout
    settings = [row["serve.precision"] for row in csv.DictReader(io.StringIO(shown))]
    assert settings == ["half", "full", "half"]  # in the tree, in HEAD, and as the experiment


def check_report(clone: Clone) -> None:
    """Of an experiment beside the commit that it began from, by its name."""
    [name] = clone.dvc("exp", "list", "--name-only").stdout.split()
    clone.run(str(clone.path / ".venv/bin/litmeter"), "report", "HEAD", name)
    text = text_of((clone.path / "report.html").read_text())
    assert re.search(r'serve\.precision\s+"full"\s+"half"', text)


def text_of(html: str) -> str:
    """What stands between the tags."""
    return unescape(re.sub("<[^>]*>", " ", html))


def leave_out_results_of_nobody(clone: Clone) -> None:
    """Take the new entry out again: its results stay, beside those of e2 to e7, and nothing stops."""
    clone.git("checkout", "-q", "params.yaml")
    done = clone.dvc("repro")
    # DVC's run cache would replay the candidate's old measurement; `persist` keeps it out.
    assert clone.stages_run(done.stdout) == ["machine", "packages", "candidate", "comparison", "report"]
    said = " ".join(done.stdout.split())
    named, _, command = said.partition("; remove them: ")
    assert f"{MINE}, which params.yaml has not, are left out" in named
    command = command.partition("; done")[0] + "; done"
    assert (clone.path / NEW.metrics).exists()
    clone.run("sh", "-c", command)
    left = [*clone.path.glob("metrics/**/e[2-9]_*"), *clone.path.glob("plots/**/e[2-9]_*")]
    assert left == []
    assert "params.yaml has not" not in clone.dvc("repro").stdout
