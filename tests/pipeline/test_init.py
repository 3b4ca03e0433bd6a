"""A project that `litmeter init` wrote, used as DVC's users do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from litmeter.params import load_params
from litmeter.paths import OVER_BEFORE
from litmeter.system.files import read_json
from tests.pipeline.conftest import Activated, Clone

SERVER = """
import time
from pathlib import Path

import litserve


class Sum(litserve.LitAPI):
    def setup(self, device):
        self.offset = float(Path("weights.txt").read_text())

    def decode_request(self, request):
        return request["input"]

    def predict(self, x):
        time.sleep(0.005)
        return [one + self.offset for one in x] if isinstance(x, list) else x + self.offset

    def encode_response(self, output):
        return {"output": output}
"""
SHORT: dict[str, Any] = {
    "load": {"users": [4], "requests": 20, "min_s": 0.3, "max_s": 1.0, "warmup_s": 0.1},
    "comparison": {"users": 4, "seconds": 5.0},
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """As it was written, but for one of the experiments and short budgets; run and committed."""
    folder = tmp_path_factory.mktemp("initialised")
    for name, content in {"server.py": SERVER, "weights.txt": "2", "body.json": '{"input": 1}'}.items():
        (folder / name).write_text(content)
    project = Activated(folder)
    project.git("init")
    for command in ("dvc init", "litmeter init server.py:Sum --body body.json"):
        project.run(*command.split())
    single = load_params(folder / "params.yaml").experiments["single"]
    project.change({**SHORT, "experiments": {"single": single.model_dump(exclude_defaults=True)}})
    done = project.run("dvc", "repro")
    stages = ["machine", "benchmark@single", "candidate", "comparison", "report"]
    assert project.stages_run(done.stdout) == stages
    project.commit("results of this machine")
    return project


def test_only_what_depends_on_a_changed_file_runs_again(project: Clone) -> None:
    assert project.stages_run(project.run("dvc", "repro").stdout) == ["machine"]
    (project.path / "weights.txt").write_text("3")
    status = json.loads(project.run("dvc", "status", "--json").stdout)
    assert {"benchmark@single", "candidate", "comparison"} <= set(status)
    project.git("checkout", "-q", "weights.txt")


def test_an_experiment_is_run_compared_and_drawn(project: Clone) -> None:
    done = project.run("dvc", "exp", "run", "-S", "serve.max_batch_size=8")
    assert project.stages_run(done.stdout) == ["machine", "candidate", "comparison", "report"]
    assert read_json(project.path / OVER_BEFORE)["changes"] == {"max_batch_size": [4, 8]}
    diff = json.loads(project.run("dvc", "metrics", "diff", "--json").stdout)
    assert "candidate" in diff["metrics/summary.json"]
    assert diff["metrics/over_before.json"].keys() == {"ratio", "low", "high"}
    page = Path(project.run("dvc", "plots", "show").stdout.strip().removeprefix("file://")).read_text()
    for configuration in ("candidate", "single"):
        assert page.count(configuration) >= 2  # compared, and alone
