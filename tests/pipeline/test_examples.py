"""Examples as their READMEs use them: commands in DVC, and a LitAPI of torch without a project."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import yaml

from litmeter.system.files import read_json
from tests.pipeline.conftest import copy_of_example

HERE = ("fastapi", "litserve", "litserve_batch")
"""Those whose packages this environment has."""


def test_peers_are_started_by_their_commands_and_compared(tmp_path: Path) -> None:
    project = copy_of_example("peers", tmp_path)
    (tmp_path / "env").symlink_to(sys.prefix)
    experiments = yaml.safe_load((tmp_path / "params.yaml").read_text())["experiments"]
    project.change(
        {
            "experiments": {name: experiments[name] for name in HERE},
            "load": {"users": [4], "requests": 20, "min_s": 0.3, "max_s": 1.0, "warmup_s": 0.1},
            "comparison": {"users": 4, "seconds": 5.0},
            "objective": {"configurations": ["fastapi"]},
        }
    )
    project.commit("the project")
    project.run("dvc", "repro")
    assert set(read_json(tmp_path / "metrics/summary.json")) == set(HERE)
    assert [read_json(tmp_path / f"metrics/benchmark/{name}.json")["failed"] for name in HERE] == [0, 0, 0]
    assert project.stages_run(project.run("dvc", "repro").stdout) == ["machine"]


def test_two_settings_of_a_torch_module_are_compared_without_a_project(tmp_path: Path) -> None:
    project = copy_of_example("torch", tmp_path)
    servers = ("one=server:ImageAPI", "eight=server:ImageAPI max_batch_size=8 batch_timeout_s=0.002")
    given = ("--body", "bodies.jsonl", "--seconds", "10", "--json", "--report", "report.html")
    [pair] = json.loads(project.run("litmeter", "compare", *servers, *given).stdout)["pairs"]
    assert {pair["name"], pair["other"]} == {"one", "eight"}
    assert "server:ImageAPI" in (tmp_path / "report.html").read_text()
