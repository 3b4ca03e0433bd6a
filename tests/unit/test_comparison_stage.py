"""What makes the stage measure a configuration anew."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from servebench.stages.comparison import code_digest
from tests.support.project import ROOT


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("module", "measured_anew"),
    [
        ("benchmark/turns.py", True),
        ("serving/direct/worker.py", True),
        ("stages/comparison.py", True),
        ("params.py", True),
        ("report/tables.py", False),
        ("stages/report.py", False),
        ("cli/parser.py", False),
    ],
)
def test_only_code_that_the_stage_runs_counts(project: Path, module: str, measured_anew: bool) -> None:
    before = code_digest()
    with (project / "src/servebench" / module).open("a") as file:
        file.write("# changed\n")
    assert (code_digest() != before) is measured_anew
