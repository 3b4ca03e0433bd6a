"""An experiment with another value, and back to the old one."""

from __future__ import annotations

import json
import re
from html import unescape
from pathlib import Path

from litmeter.paths import BenchmarkPaths
from litmeter.report.tables import significant
from litmeter.system.files import read_json
from tests.pipeline.conftest import Clone


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
    clone.run(str(clone.path / ".venv/bin/litmeter"), "report", "HEAD", name)
    report = (clone.path / "report.html").read_text()
    assert "What changed since HEAD" in report
    row = re.search(
        r"<td[^>]*><code>serve.precision</code></td>\n<td[^>]*>(.*)</td>\n<td[^>]*>(.*)</td>", report
    )
    assert row is not None
    assert [unescape(cell) for cell in row.groups()] == ['"full"', '"half"']
