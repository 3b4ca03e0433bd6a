"""A project that `litmeter init` wrote, used as DVC's users do."""

from __future__ import annotations

import json
from pathlib import Path

from litmeter.params import load_params
from litmeter.paths import OVER_BEFORE
from litmeter.system.files import read_json
from tests.pipeline.conftest import Activated

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


def test_an_initialised_project_is_run_tried_compared_and_drawn(tmp_path: Path) -> None:
    files = {"server.py": SERVER, "weights.txt": "2", "body.json": '{"input": 1}'}
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    project = Activated(tmp_path)
    said = project.run("litmeter", "init", "server.py:Sum", "--body", "body.json").stdout
    assert [line.split()[0] for line in said.splitlines()[-3:]] == ["git", "dvc", "dvc"]
    project.git("init", "-qb", "main")
    project.run("dvc", "init", "-q")
    project.change(
        {
            "load": {"users": [4], "requests": 20, "min_s": 0.3, "max_s": 1.0, "warmup_s": 0.1},
            "comparison": {"users": 4, "seconds": 5.0},
        }
    )
    experiments = load_params(tmp_path / "params.yaml").experiments
    done = project.run("dvc", "repro")
    alone = [f"benchmark@{name}" for name in experiments]
    assert project.stages_run(done.stdout) == ["machine", *alone, "candidate", "comparison", "report"]
    assert set(read_json(tmp_path / "metrics/summary.json")) == {*experiments, "candidate"}
    project.commit("results of this machine")
    assert project.stages_run(project.run("dvc", "repro").stdout) == ["machine"]
    assert project.git("status", "--porcelain") == ""

    done = project.run("dvc", "exp", "run", "-S", "serve.max_batch_size=8")
    assert project.stages_run(done.stdout) == ["machine", "candidate", "comparison", "report"]
    assert read_json(tmp_path / OVER_BEFORE)["changed"] == "max_batch_size 4 -> 8"
    [changed] = [line for line in project.git("diff", "-U0", "params.yaml").splitlines() if line[:2] == "+ "]
    assert changed == "+  max_batch_size: 8"
    diff = json.loads(project.run("dvc", "metrics", "diff", "--json").stdout)
    assert "candidate" in diff["metrics/summary.json"]
    page = Path(project.run("dvc", "plots", "show").stdout.strip().removeprefix("file://")).read_text()
    assert all(name in page for name in (*experiments, "candidate"))

    (tmp_path / "weights.txt").write_text("3")
    status = json.loads(project.run("dvc", "status", "--json").stdout)
    assert {*alone, "candidate", "comparison"} <= set(status)
