"""The README's walk, in its order: run, commit, try something, see the difference."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from html import unescape
from pathlib import Path

import pytest

from servebench.params import load_params
from servebench.paths import README, RESULTS_PAGE, BenchmarkPaths
from servebench.report.results_page import BEGIN, END
from servebench.report.summary import significant
from servebench.system.files import read_json
from tests.pipeline.conftest import TINY, Clone, results_of
from tests.support.tables import read_csv


def test_a_run_writes_everything_and_the_lock_is_in_step(ran: Clone) -> None:
    for name in ("e1_baseline", "candidate"):
        paths = BenchmarkPaths(name)
        metrics = read_json(ran.path / paths.metrics)
        assert metrics["throughput_rps"] > 0
        assert metrics["failed"] == 0
        assert metrics["gpu_percent"] is None
        assert read_json(ran.path / paths.accuracy)["mismatched"] == 0
        run = read_json(ran.path / paths.run)
        assert run["dtype"] == "float32"
        assert run["request_body"] == load_params(ran.path / "params.yaml").load.request_body
        assert run["machine"] == read_json(ran.path / "metrics/machine.json")["id"]
        levels = read_csv(ran.path / paths.levels)
        assert [row["users"] for row in levels] == ["1", "4"]
        samples = read_csv(ran.path / paths.samples)
        for level in levels:
            own = [row for row in samples if row["users"] == level["users"]]
            last_run = max(row["phase"] for row in own)
            assert (last_run == "run 1") == (level["first_rps"] == "")
            assert sum(row["phase"] == last_run for row in own) == int(level["sent"])
        assert (ran.path / f"assets/results/{name}.png").stat().st_size > 5000
        assert [row["batch_size"] for row in read_csv(ran.path / paths.baseline)] == ["1", "2"]
    assert list(read_json(ran.path / "metrics/summary.json")) == ["candidate", "e1"]
    status = ran.status()
    assert status == {"machine": ["always changed"]}
    assert ran.git("status", "--porcelain") == ""


def test_a_quick_comparison_keeps_nothing(ran: Clone) -> None:
    before = results_of(ran)
    output = ran.run(str(ran.path / ".venv/bin/servebench"), "quick").stdout
    assert "results are not kept" in output
    assert re.search(r"^\| candidate +\| +1 \|", output, re.MULTILINE)
    assert results_of(ran) == before
    assert ran.git("status", "--porcelain") == ""


def test_the_results_are_written_into_page_and_readme(ran: Clone, origin: Path) -> None:
    metrics = read_json(ran.path / BenchmarkPaths("candidate").comparison)
    rate = f" {metrics['rate_rps']:,.1f} |"
    before, section, after = sections((ran.path / README).read_text())
    assert [line for line in section.splitlines() if line.startswith("| `candidate` |") and rate in line]
    assert "e1_baseline" in section
    assert (before, after) == sections((origin / README).read_text())[::2]
    page = (ran.path / RESULTS_PAGE).read_text()
    assert [line for line in page.splitlines() if line.startswith("| `candidate` |") and rate in line]
    for picture in re.findall(r"\]\(([^)]*\.png)\)", page):
        assert (ran.path / RESULTS_PAGE.parent / picture).exists()


def sections(text: str) -> tuple[str, str, str]:
    """What stands before, between and after the markers."""
    before, _, rest = text.partition(BEGIN)
    section, _, after = rest.partition(END)
    return before, section, after


def test_nothing_runs_again_but_the_check(ran: Clone) -> None:
    assert ran.stages_run(ran.dvc("repro").stdout) == ["machine"]
    assert ran.git("status", "--porcelain") == ""


def test_half_precision_and_back_measures_the_candidate_alone(ran: Clone) -> None:
    paths = BenchmarkPaths("candidate")
    before = read_json(ran.path / paths.comparison)
    alone_before = read_json(ran.path / paths.metrics)
    try:
        done = ran.dvc("exp", "run", "-S", "serve.precision=half")
        assert ran.stages_run(done.stdout) == ["machine", "candidate", "comparison", "report"]
        after = read_json(ran.path / paths.comparison)
        alone_after = read_json(ran.path / paths.metrics)
        assert read_json(ran.path / paths.run)["dtype"] == "bfloat16"
        diff = json.loads(ran.dvc("metrics", "diff", "--all", "--json").stdout)
        assert set(diff) == {"metrics/summary.json"}
        changed = diff["metrics/summary.json"]["candidate"]
        assert changed["old"] == significant(before["rate_rps"])
        assert changed["new"] == significant(after["rate_rps"])
        assert after != before
        assert alone_after != alone_before
        assert set(diff["metrics/summary.json"]) == {"candidate", "e1"}
        page = Path(ran.dvc("plots", "show").stdout.strip().removeprefix("file://"))
        text = page.read_text()
        for name in ("e1_baseline", "candidate"):
            assert name in text
        check_report_of_experiment(ran)
        shown = ran.dvc("exp", "show", "--only-changed").stdout.splitlines()
        # The reference is measured again with what has changed; a rate may come out as it was.
        first, rest = shown[1].split("serve.precision")
        assert set(first.split()) <= {"Experiment", "Created", "candidate", "e1"}
        assert "experiments." not in rest
        settings = re.findall(r" (half|full) ", "\n".join(shown))
        assert settings == ["half", "full", "half"]  # in the tree, in HEAD, and as the experiment
        # Back to the old value: DVC's run cache would replay the old measurement, `persist` keeps it out.
        ran.change({"serve": {"precision": "full"}})
        process = ran.start(ran.dvc_path, "repro", "candidate")
        try:
            ran.wait_for("candidate: float32", process)
        finally:
            ran.end(process)
        assert read_json(ran.path / paths.metrics) == alone_after
    finally:
        ran.dvc("exp", "remove", "-A")
        ran.git("checkout", "-q", ".")
        ran.dvc("checkout", "-q", "--force")
    assert ran.status() == {"machine": ["always changed"]}


def check_report_of_experiment(clone: Clone) -> None:
    """An experiment beside the commit that it began from, by its name."""
    [name] = clone.dvc("exp", "list", "--name-only").stdout.split()
    clone.run(str(clone.path / ".venv/bin/servebench"), "report", "HEAD", name)
    report = (clone.path / "report.html").read_text()
    assert "What changed since HEAD" in report
    row = re.search(
        r"<td[^>]*><code>serve.precision</code></td>\n<td[^>]*>(.*)</td>\n<td[^>]*>(.*)</td>", report
    )
    assert row is not None
    assert [unescape(cell) for cell in row.groups()] == ['"full"', '"half"']


def test_a_report_of_commits_is_written_or_refused_in_a_line(ran: Clone) -> None:
    servebench = str(ran.path / ".venv/bin/servebench")
    ran.run(servebench, "report", "HEAD~2", "HEAD", "--out", "both.html")
    both = (ran.path / "both.html").read_text()
    (ran.path / "both.html").unlink()
    assert "What changed since HEAD~2" in both
    assert "<code>model.name</code>" in both
    for revision, reason in (("nothing", "neither a revision nor an experiment"), ("HEAD~1", "metrics")):
        done = ran.run(servebench, "report", revision, check=False)
        assert done.returncode == 2, done.stderr
        [line] = done.stderr.splitlines()
        assert line.startswith(f"{revision}: ") or f" {revision}: " in line
        assert reason in line
    assert ran.git("status", "--porcelain") == ""


def test_an_existing_checkpoint_is_tested_and_not_fitted(ran: Clone) -> None:
    before = read_json(ran.path / "metrics/train.json")
    shutil.copy(ran.path / "models/checkpoint/best.ckpt", ran.path / "own.ckpt")
    try:
        ran.change({"model": {"checkpoint": "own.ckpt"}})
        done = ran.dvc("repro", "export")
        assert ran.stages_run(done.stdout) == ["train", "export"]
        assert "own.ckpt: tested, not fitted" in done.stdout
        assert "epoch" not in done.stdout
        after = read_json(ran.path / "metrics/train.json")
        assert after["test_accuracy"] == before["test_accuracy"]
        assert after["best_epoch"] == 0
    finally:
        (ran.path / "own.ckpt").unlink()
        ran.git("checkout", "-q", ".")
        ran.dvc("checkout", "-q", "--force")


def test_a_new_experiment_reaches_every_table_until_it_is_removed(ran: Clone) -> None:
    try:
        ran.change({"experiments": {**TINY["experiments"], "e8_mine": {"precision": "half"}}})
        assert ran.stages_run(ran.dvc("repro").stdout) == [
            "machine",
            "benchmark@e8_mine",
            "comparison",
            "report",
        ]
        assert list(read_json(ran.path / "metrics/summary.json")) == ["candidate", "e1", "e8"]
        for table in ("levels", "efficiency", "bounds", "diagnosis", "stages", "batches"):
            rows = read_csv(ran.path / f"plots/{table}.csv")
            assert {row["experiment"] for row in rows} == {"e1_baseline", "e8_mine", "candidate"}
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


@pytest.mark.parametrize(
    ("changes", "stages"),
    [
        ({"load": {"requests": 21}}, {"benchmark@e1_baseline", "candidate"}),
        ({"train": {"epochs": 2}}, {"train"}),
        ({"objective": {"slo_ms": 1.0}}, {"report"}),
    ],
)
def test_a_knob_reruns_what_it_touches(ran: Clone, changes: dict[str, object], stages: set[str]) -> None:
    try:
        ran.change(changes)
        status = ran.status()
        assert set(status) == {"machine", *stages}
    finally:
        ran.git("checkout", "-q", ".")


def test_a_queued_experiment_runs_the_code_of_its_own_tree(ran: Clone) -> None:
    """DVC's copy of the tree has no .venv, and the environment's editable install is another tree's.

    Its queue starts `dvc` by its name: the environment has to be active.
    """
    active = {**ran.environment, "PATH": f"{ran.path}/.venv/bin{os.pathsep}{ran.environment['PATH']}"}
    source = ran.path / "src/servebench/report/comparison.py"
    original = source.read_text()
    try:
        # Whichever of the two it says: that depends on how busy the machine is.
        changed = original.replace('"Fastest at {', '"Quickest at {')
        assert changed.count("Quickest at ") == 2
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
        assert ran.stages_run(output) == ["machine", "candidate", "comparison", "report"]
        assert "Quickest at " in output
        compared = json.loads(ran.dvc("metrics", "diff", "HEAD", "queued", "--all", "--json").stdout)
        assert compared["metrics/summary.json"]["candidate"]["new"] > 0
    finally:
        ran.git("checkout", "-q", ".")
        ran.dvc("queue", "stop", "--kill", check=False)
        ran.dvc("exp", "remove", "-A")


def test_the_classifier_is_an_artifact_by_its_tag(ran: Clone, tmp_path: Path) -> None:
    ran.git("tag", "-a", "classifier@v1.0.0", "-m", "the first")
    try:
        ran.dvc("artifacts", "get", ".", "classifier", "-o", str(tmp_path / "got"))
    finally:
        ran.git("tag", "-d", "classifier@v1.0.0")
    exported = ran.path / "models/exported"
    names = sorted(path.name for path in exported.iterdir())
    assert sorted(path.name for path in (tmp_path / "got").iterdir()) == names
    for name in names:
        assert (tmp_path / "got" / name).read_bytes() == (exported / name).read_bytes()
