"""The README's walk, in its order: run, commit, try something, see the difference."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from servebench.system.files import read_csv, read_json
from tests.pipeline.conftest import TINY, Clone
from tests.support.project import ROOT

WIDTH = 160


def documented_exp_show() -> list[str]:
    """The arguments of the one `dvc exp show` that the README shows."""
    text = (ROOT / "README.md").read_text().replace("\\\n", " ")
    [line] = [line for line in text.splitlines() if line.startswith("dvc exp show ")]
    return shlex.split(line)[1:]


def test_a_run_writes_everything_and_the_lock_is_in_step(ran: Clone) -> None:
    for name in ("e1_baseline", "candidate"):
        metrics = read_json(ran.path / f"metrics/benchmark/{name}.json")
        assert metrics["throughput_rps"] > 0
        assert metrics["failed"] == 0
        assert metrics["gpu_percent"] is None
        meta = read_json(ran.path / f"plots/benchmark/{name}.meta.json")
        assert meta["dtype"] == "float32"
        assert meta["machine"] == read_json(ran.path / "metrics/machine.json")["id"]
        levels = read_csv(ran.path / f"plots/benchmark/{name}.csv")
        assert [row["users"] for row in levels] == ["1", "4"]
        samples = read_csv(ran.path / f"samples/{name}.csv")
        sent = [row for row in samples if row["phase"] == "best level"]
        [again] = {row["users"] for row in sent}
        best = next(row for row in levels if row["users"] == again)
        assert len(sent) == int(best["sent"])
        assert (ran.path / f"assets/results/{name}.png").stat().st_size > 5000
        assert [r["batch_size"] for r in read_csv(ran.path / f"plots/baseline/{name}.csv")] == ["1", "2"]
    status = json.loads(ran.dvc("status", "--json").stdout)
    assert status == {"machine": ["always changed"]}
    assert ran.git("status", "--porcelain") == ""


def test_nothing_runs_again_but_the_check(ran: Clone) -> None:
    assert ran.stages_run(ran.dvc("repro").stdout) == ["machine"]
    assert ran.git("status", "--porcelain") == ""


def test_trying_half_precision_and_going_back(ran: Clone) -> None:
    before = read_json(ran.path / "metrics/benchmark/candidate.json")
    try:
        done = ran.dvc("exp", "run", "-S", "serve.precision=half")
        assert ran.stages_run(done.stdout) == ["machine", "candidate", "report"]
        after = read_json(ran.path / "metrics/benchmark/candidate.json")
        assert read_json(ran.path / "plots/benchmark/candidate.meta.json")["dtype"] == "bfloat16"
        diff = json.loads(ran.dvc("metrics", "diff", "--json").stdout)
        changed = diff["metrics/benchmark/candidate.json"]["throughput_rps"]
        assert changed["old"] == before["throughput_rps"]
        assert changed["new"] == after["throughput_rps"]
        assert "metrics/benchmark/e1_baseline.json" not in diff
        assert "candidate_rps" in diff["metrics/summary.json"]
        page = Path(ran.dvc("plots", "show").stdout.strip().removeprefix("file://"))
        text = page.read_text()
        for name in ("e1_baseline", "candidate"):
            assert name in text
        shown = ran.dvc(*documented_exp_show()).stdout
        assert "candidate_rps" in shown
        assert "half" in shown
        # Back to the old value: DVC's run cache would replay the old measurement, `persist` keeps it out.
        ran.change({"serve": {"precision": "full"}})
        process = ran.start(ran.dvc_path, "repro", "candidate")
        try:
            ran.wait_for("candidate: float32", process)
        finally:
            ran.end(process)
        assert read_json(ran.path / "metrics/benchmark/candidate.json") == after
    finally:
        ran.git("checkout", "-q", ".")
        ran.dvc("checkout", "-q", "--force")
    assert json.loads(ran.dvc("status", "--json").stdout) == {"machine": ["always changed"]}


def test_an_existing_checkpoint_is_tested_and_not_fitted(ran: Clone) -> None:
    before = read_json(ran.path / "metrics/train.json")
    shutil.copy(ran.path / "models/checkpoint/best.ckpt", ran.path / "own.ckpt")
    try:
        ran.change({"model": {"checkpoint": "own.ckpt"}})
        done = ran.dvc("repro", "export")
        assert ran.stages_run(done.stdout) == ["training", "export"]
        assert "own.ckpt: tested, not fitted" in done.stdout
        assert "epoch" not in done.stdout
        after = read_json(ran.path / "metrics/train.json")
        assert after["test_accuracy"] == before["test_accuracy"]
        assert after["best_epoch"] == 0
    finally:
        (ran.path / "own.ckpt").unlink()
        ran.git("checkout", "-q", ".")
        ran.dvc("checkout", "-q", "--force")


def test_a_new_experiment_is_one_entry_and_reaches_every_table_and_plot(ran: Clone) -> None:
    try:
        ran.change({"experiments": {**TINY["experiments"], "e7_mine": {"precision": "half"}}})
        assert ran.stages_run(ran.dvc("repro").stdout) == ["machine", "benchmark@e7_mine", "report"]
        assert read_json(ran.path / "metrics/summary.json")["e7_rps"] > 0
        assert {r["experiment"] for r in read_csv(ran.path / "plots/levels.csv")} >= {"e7_mine"}
        assert {r["experiment"] for r in read_csv(ran.path / "plots/efficiency.csv")} >= {"e7_mine"}
        assert (ran.path / "assets/results/e7_mine.png").exists()
        assert "e7_mine" in ran.dvc("metrics", "show", "metrics/benchmark").stdout
        page = Path(ran.dvc("plots", "show").stdout.strip().removeprefix("file://"))
        assert page.read_text().count("e7_mine") >= 4
        # Taken out again, its results are refused until they are removed.
        ran.change({"experiments": TINY["experiments"]})
        refused = ran.dvc("repro", check=False)
        assert refused.returncode == 255
        assert "e7_mine" in refused.stderr
        assert "git rm" in refused.stderr
    finally:
        ran.git("checkout", "-q", ".")
        ran.git("clean", "-fdq", "metrics", "plots", "assets")
        ran.dvc("checkout", "-q", "--force")


def test_editing_one_experiment_measures_that_one(ran: Clone) -> None:
    try:
        edited = {**TINY["experiments"], "e1_baseline": {"precision": "half"}}
        ran.change({"experiments": edited})
        status = json.loads(ran.dvc("status", "--json").stdout)
        assert set(status) == {"machine", "benchmark@e1_baseline", "report"}
    finally:
        ran.git("checkout", "-q", ".")


@pytest.mark.parametrize(
    ("changes", "stages"),
    [
        (
            {"load": {"requests": 21, "best_requests": 21}},
            {"benchmark@e1_baseline", "candidate"},
        ),
        ({"train": {"epochs": 2}}, {"training"}),
        ({"load": {"slo_p95_ms": 1.0}}, {"report"}),
    ],
)
def test_a_knob_reruns_what_it_touches(ran: Clone, changes: dict[str, object], stages: set[str]) -> None:
    try:
        ran.change(changes)
        status = json.loads(ran.dvc("status", "--json").stdout)
        assert set(status) == {"machine", *stages}
    finally:
        ran.git("checkout", "-q", ".")


def test_a_queued_experiment_runs_the_code_of_its_own_tree(ran: Clone) -> None:
    """DVC's copy of the tree has no .venv, and the environment's editable install is another tree's.

    Its queue starts `dvc` by its name: the environment has to be active.
    """
    active = {**ran.environment, "PATH": f"{ran.path}/.venv/bin{os.pathsep}{ran.environment['PATH']}"}
    source = ran.path / "src/servebench/report/run.py"
    original = source.read_text()
    try:
        # Whichever of the two it says: that depends on how busy the machine is.
        changed = original.replace('"Fastest: ', '"Quickest: ').replace(
            '"No experiment has', '"Quickest: none has'
        )
        assert changed.count("Quickest: ") == 2
        source.write_text(changed)
        ran.dvc("exp", "run", "--queue", "-n", "queued", "-S", "serve.batch_timeout_s=0.04")
        ran.git("checkout", "-q", ".")
        # Its worker goes on by itself and would hold our pipes open.
        subprocess.run(
            [ran.dvc_path, "queue", "start"],
            cwd=ran.path,
            env=active,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=True,
        )
        deadline = time.monotonic() + 240
        while not re.search("Success|Failed", status := ran.dvc("queue", "status").stdout):
            assert time.monotonic() < deadline, status
            time.sleep(1)
        assert "Success" in status
        output = ran.dvc("queue", "logs", "queued").stdout
        assert ran.stages_run(output) == ["machine", "candidate", "report"]
        assert "Quickest: " in output
        compared = ran.dvc("metrics", "diff", "HEAD", "queued", "--json").stdout
        assert "throughput_rps" in json.loads(compared)["metrics/benchmark/candidate.json"]
    finally:
        ran.git("checkout", "-q", ".")
        ran.dvc("queue", "stop", "--kill", check=False)
        ran.dvc("exp", "remove", "-A")


def test_the_committed_results_read_well(new_clone: Callable[[], Clone]) -> None:
    """In a fresh clone, before anything has run: one row per configuration, no line too wide."""
    clone = new_clone()
    names = [*yaml.safe_load((clone.path / "params.yaml").read_text())["experiments"], "candidate"]
    shown = clone.dvc("metrics", "show", "metrics/benchmark").stdout
    for name in names:
        assert sum(f"{name}.json" in line for line in shown.splitlines()) == 1
    compared = clone.dvc(*documented_exp_show()).stdout
    for name in names:
        assert f"{name.split('_')[0]}_rps" in compared
    assert max(map(len, shown.splitlines())) <= WIDTH
    assert max(map(len, compared.splitlines())) <= WIDTH
