"""The README's walk, in its order: run, commit, try something, see the difference."""

from __future__ import annotations

import json
import re
from html import unescape
from pathlib import Path

from servebench.params import load_params
from servebench.paths import README, RESULTS_PAGE, BenchmarkPaths
from servebench.report.results_page import BEGIN, END
from servebench.report.summary import significant
from servebench.system.files import read_json
from tests.pipeline.conftest import Clone, results_of
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
    assert "Ratios cannot be compared, as these changed: " in both
    refused = (("nothing", 2, "neither a revision nor an experiment"), ("HEAD~1", 1, "metrics"))
    for revision, status, reason in refused:
        done = ran.run(servebench, "report", revision, check=False)
        assert done.returncode == status, done.stderr
        [line] = done.stderr.splitlines()
        assert line.startswith(f"servebench: {revision}: ")
        assert reason in line
    assert ran.git("status", "--porcelain") == ""
