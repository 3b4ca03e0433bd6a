"""examples/text as its README says: a repository of its own, a run, and what DVC's users do next.

`litmeter init` writes such a project: the unit tests compare its dvc.yaml.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from litmeter.paths import BOUNDS, COMPARISON_TURNS, INPUTS, OVER_BEFORE, STAGES, BenchmarkPaths
from litmeter.system.files import read_json
from tests.pipeline.conftest import Clone, copy_of_example, results_of
from tests.support.tables import read_csv

API = {"api": "server:TextAPI", "threads_per_worker": 1}
SHORT: dict[str, Any] = {
    "serve": {"max_batch_size": 2},
    "experiments": {"single": API},
    "load": {"users": [1, 4], "requests": 20, "min_s": 0.3, "max_s": 1.0, "warmup_s": 0.1},
    "comparison": {"users": 4, "seconds": 5.0},
}


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """The example in a short version, run and committed."""
    project = copy_of_example("text", tmp_path_factory.mktemp("text"))
    project.change(SHORT)
    project.commit("the project")
    done = project.run("dvc", "repro")
    stages = ["machine", "benchmark@single", "candidate", "comparison", "report"]
    assert project.stages_run(done.stdout) == stages
    assert "stage 5 of 5 (report)" in done.stdout
    project.commit("results of this machine")
    return project


@pytest.fixture
def restored(text: Clone) -> Iterator[Clone]:
    yield text
    text.git("checkout", "-q", ".")
    text.git("clean", "-fdq")
    text.run("dvc", "checkout", "-q", "--force")


@pytest.mark.smoke
def test_a_run_has_bounds_causes_and_stages_of_each(text: Clone) -> None:
    assert set(read_json(text.path / "metrics/summary.json")) == {"candidate", "single"}
    for name in ("candidate", "single"):
        metrics = read_json(text.path / BenchmarkPaths(name).metrics)
        assert (metrics["failed"], metrics["accuracy"]) == (0, None)
        assert metrics["null_rps"] > 0
        turns = read_csv(text.path / COMPARISON_TURNS)  # on a busy machine there is no time for the first two
        works = {row["work"] for row in turns if row["subject"] == name} & {"model", "pipeline", "served"}
        bounds = [row for row in read_csv(text.path / BOUNDS) if row["experiment"] == name]
        assert {row["bound"] for row in bounds} == works
        stages = {row["stage"] for row in read_csv(text.path / STAGES) if row["experiment"] == name}
        assert stages == {"queue", "decode", "batch_wait", "model", "encode", "transport"}
    assert "bfloat16" not in read_json(text.path / "metrics/machine.json")


def test_nothing_is_measured_again_but_what_depends_on_a_changed_file(restored: Clone) -> None:
    assert restored.stages_run(restored.run("dvc", "repro").stdout) == ["machine"]
    assert restored.git("status", "--porcelain") == ""
    with (restored.path / "sentences.tsv").open("a") as file:
        file.write("\n")
    status = json.loads(restored.run("dvc", "status", "--json").stdout)
    assert {"benchmark@single", "candidate", "comparison"} <= set(status)


def test_other_requests_and_costs_are_measured_again(restored: Clone) -> None:
    """What users send is what `load:` and the bodies' files say, but for values from the environment."""

    def why(**environment: str) -> dict[str, list[str]]:
        own = restored.environment | environment
        done = subprocess.run(["dvc", "repro", "machine"], cwd=restored.path, env=own, capture_output=True)
        assert done.returncode == 0, done.stderr
        found = json.loads(restored.run("dvc", "status", "--json", "dvc.yaml").stdout)
        del found["machine"]
        return {
            stage: sorted(key for keys in one["changed deps"].values() for key in keys)
            for stage, [one] in found.items()
        }

    assert why() == {}
    restored.change({"costs": {"single": {"flops": 1e6, "dtype": "float32"}}})
    assert why() == {"comparison": ["costs"]}
    restored.git("checkout", "-q", ".")
    restored.change({"load": {"headers": {"Authorization": "Bearer ${TOKEN}"}}})
    refused = restored.run("dvc", "repro", "machine", check=False)
    assert "machine: header Authorization: TOKEN must be set" in refused.stderr
    sent = {"benchmark@single": ["load", "sent"], "candidate": ["load", "sent"], "comparison": ["sent"]}
    assert why(TOKEN="a secret") == sent
    inputs = (restored.path / INPUTS).read_bytes()
    assert why(TOKEN="another") == sent
    assert (restored.path / INPUTS).read_bytes() == inputs


def test_an_experiment_is_run_and_shown_as_dvcs_users_do_it(restored: Clone) -> None:
    done = restored.run("dvc", "exp", "run", "-S", "serve.max_batch_size=8")
    assert restored.stages_run(done.stdout) == ["machine", "candidate", "comparison", "report"]
    assert read_json(restored.path / OVER_BEFORE)["changes"] == {"max_batch_size": [2, 8]}
    diff = json.loads(restored.run("dvc", "metrics", "diff", "--json").stdout)
    assert "candidate" in diff["metrics/summary.json"]
    assert diff["metrics/over_before.json"].keys() == {"ratio", "low", "high"}
    [name] = restored.run("dvc", "exp", "list", "--name-only").stdout.split()
    assert name in restored.run("dvc", "exp", "show", "--csv").stdout
    page = Path(restored.run("dvc", "plots", "show").stdout.strip().removeprefix("file://")).read_text()
    for configuration in ("candidate", "single"):
        assert page.count(configuration) >= 3  # compared, and alone at two numbers of users
    restored.run("litmeter", "report", "HEAD", name)
    restored.run("litmeter", "results")
    assert "2 -> 8" in (restored.path / "report.html").read_text().replace("&gt;", ">")


def test_a_broken_server_is_a_line_and_the_last_results_stay(restored: Clone) -> None:
    results, server = results_of(restored), restored.path / "server.py"
    server.write_text(server.read_text().replace("return answers[0] if", "return answers[9] if"))
    refused = restored.run("dvc", "repro", check=False)
    assert refused.returncode == 255
    assert restored.stages_run(refused.stdout) == ["machine", "benchmark@single"]
    [said] = [line for line in refused.stderr.splitlines() if line.startswith("benchmark: ")]
    assert re.search("predict.*IndexError", said)
    assert results_of(restored) == results
    assert restored.processes("litmeter") == []
