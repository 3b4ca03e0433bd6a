"""The stages of a project whose configurations are commands: without a model, and without DVC."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

from litmeter.paths import COMPARISON, COMPARISON_TABLE, COMPARISON_TURNS, MACHINE, SUMMARY, BenchmarkPaths
from litmeter.system.files import read_json
from tests.support.servers import APIS, STUB_PARAMS
from tests.support.tables import read_csv

STAGES = ["machine", "benchmark slow", "benchmark candidate", "comparison", "capacity", "report"]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    shutil.copy(APIS / "stub_server.py", "server.py")
    Path("bodies.jsonl").write_text('{"a": 1}\n{"a": 2}\n')
    Path("params.yaml").write_text(yaml.safe_dump(STUB_PARAMS))
    stages = {stage: {"cmd": f"litmeter stage {stage}", "deps": ["server.py"]} for stage in STAGES}
    Path("dvc.yaml").write_text(yaml.safe_dump({"stages": stages}, sort_keys=False))
    return tmp_path


def litmeter(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run it in the current folder; what it did, its output as text."""
    command = [str(Path(sys.prefix) / "bin/litmeter"), *arguments]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.usefixtures("project")
def test_two_commands_are_benchmarked_compared_and_reported() -> None:
    said = {}
    for number, stage in enumerate(STAGES, 1):
        done = litmeter("stage", *stage.split())
        assert done.returncode == 0, done.stderr
        assert f"stage {number} of {len(STAGES)} " in done.stdout
        said[stage] = done.stdout
    assert re.search(r"^slow, 1 user: .*^slow: ready after ", said["benchmark slow"], re.M | re.S)
    assert "\n| candidate " in said["comparison"]
    assert re.search(r"^candidate: .*^candidate ", said["capacity"], re.M | re.S)
    machine = read_json(MACHINE)
    assert machine["litmeter"] == version("litmeter")  # an upgrade of which measures all anew
    assert "bfloat16" not in machine
    metrics = read_json(BenchmarkPaths("slow").metrics)
    unknown = {"null_rps", "photos", "agreement", "accuracy", "mismatched"}
    assert {key for key, value in metrics.items() if value is None} == unknown
    turns = read_csv(COMPARISON_TURNS)
    assert sum(float(row["server_cores"]) for row in turns) > 0
    assert all(float(row["memory_mib"]) > 5 and not row["void"] for row in turns)
    [slow, candidate] = read_csv(COMPARISON_TABLE)
    assert float(candidate["ratio"]) > 2
    assert (slow["pipeline_rps"], slow["efficiency"]) == ("", "")
    assert set(read_json(COMPARISON)["unavailable"]) == {"slow", "candidate"}
    assert set(read_json(SUMMARY)) == {"slow", "candidate"}
    assert litmeter("report").returncode == 0
    assert "not available" in Path("report.html").read_text()


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize("bodies", ["gone.jsonl", None])
def test_the_first_stage_refuses_what_cannot_be_sent(bodies: str | None) -> None:
    load = STUB_PARAMS["load"] | {"bodies": bodies}
    Path("params.yaml").write_text(yaml.safe_dump(STUB_PARAMS | {"load": load}))
    refused = litmeter("stage", "machine")
    assert refused.returncode == 2
    [line] = refused.stderr.splitlines()
    assert "load.bodies: " in line
    assert not MACHINE.exists()


def test_a_stage_without_a_project_or_of_no_name_is_refused_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for stage in ("machine", "unknown"):
        refused = litmeter("stage", stage)
        assert refused.returncode == 2
        assert len(refused.stderr.splitlines()) == 1
