"""How a stage starts, in whatever environment and beside others, and how it says that a value is wrong."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from litmeter.paths import INDEX
from litmeter.stages.__main__ import BESIDE_OTHERS, STAGES
from litmeter.system.machine import LOCK_FILE
from tests.support.project import ROOT

SYSTEM_PYTHON = Path(sys.base_prefix, "bin/python3")
"""Belongs to no virtual environment, and lacks the project's packages; so does conda's."""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A git repository with the project's parameters, and below it a folder with the .venv of this python."""
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    for command in ("init -q", "add -A", "-c user.name=T -c user.email=t@example.org commit -qm first"):
        subprocess.run(["git", *command.split()], cwd=tmp_path, check=True)
    (tmp_path / ".venv").symlink_to(sys.prefix)
    return tmp_path


def stage(folder: Path, *words: str, python: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """A stage, as DVC starts it in ``folder``."""
    command = [str(python), str(ROOT / "src/stage.py"), *words]
    cleared = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    return subprocess.run(command, cwd=folder, env=cleared | variables, capture_output=True, text=True)


@pytest.mark.parametrize("variables", [{}, {"CONDA_PREFIX": sys.base_prefix}], ids=["system", "conda"])
def test_a_stage_has_the_python_of_the_nearest_venv(project: Path, variables: dict[str, str]) -> None:
    (below := project / "below").mkdir()
    done = stage(below, "unknown", python=SYSTEM_PYTHON, **variables)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("usage: python -m litmeter.stages")


def test_an_active_virtual_environment_comes_first(project: Path) -> None:
    (project / ".venv").unlink()
    (project / ".venv/bin").mkdir(parents=True)
    (project / ".venv/bin/python").symlink_to("/bin/false")
    assert stage(project, "unknown", python=Path(sys.executable)).returncode == 2


def test_what_came_of_a_stage_is_said_at_its_end(project: Path) -> None:
    (project / "data").mkdir()
    (project / "data/sample").symlink_to(ROOT / "data/sample")
    done = stage(project, "data", python=Path(sys.executable), TMPDIR=str(project))
    assert done.returncode == 0, done.stderr
    assert (project / INDEX).exists()
    assert [line.split()[0] for line in done.stdout.splitlines()[-3:]] == ["train", "val", "test"]


def refuse(project: Path) -> str:
    """What is said of a value that is not allowed."""
    params = project / "params.yaml"
    params.write_text(params.read_text().replace("max_batch_size: 4 ", "max_batch_size: 0 ", 1))
    done = stage(project, "machine", python=Path(sys.executable))
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert line.startswith("machine: params.yaml: serve.max_batch_size: got 0; ")
    return line


def test_a_refused_value_of_an_experiment_is_said_to_be_still_there(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert refuse(project).endswith(
        "greater than or equal to 1"
    )  # it may be one of many that are being written
    subprocess.run(["git", "checkout", "-q", "params.yaml"], cwd=project, check=True)
    monkeypatch.setenv("DVC_EXP_NAME", "lucky-newt")
    assert refuse(project).endswith("; params.yaml still has it: git checkout params.yaml")
    subprocess.run(["git", "checkout", "-q", "params.yaml"], cwd=project, check=True)
    refuse(project)
    subprocess.run(
        ["git", "-c", "user.name=T", "-c", "user.email=t@example.org", "commit", "-qam", "wrong"],
        cwd=project,
        check=True,
    )
    assert refuse(project).endswith("greater than or equal to 1")


def test_without_git_only_the_mistake_is_said(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_EXP_NAME", "lucky-newt")
    shutil.rmtree(project / ".git")
    assert refuse(project).endswith("greater than or equal to 1")


def stage_beside_another(project: Path, name: str) -> tuple[str, str]:
    """What a stage says while something else has the machine, to its end, or until it waits."""
    with (
        FileLock(project / LOCK_FILE.name),
        subprocess.Popen(
            [
                sys.executable,
                str(ROOT / "src/stage.py"),
                name,
                *(["candidate"] if name == "benchmark" else []),
            ],
            cwd=project,
            env=os.environ | {"TMPDIR": str(project)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as running,
    ):
        assert running.stdout is not None
        assert running.stderr is not None
        said = ""
        for line in running.stdout:
            said += line
            if "waiting" in line:
                assert running.poll() is None
                running.terminate()
        return said, running.stderr.read()


@pytest.mark.parametrize("name", [name for name in STAGES if name not in BESIDE_OTHERS])
def test_what_computes_waits_for_whoever_computes_on_this_machine(project: Path, name: str) -> None:
    """Without results it would fail at once if it began."""
    said, failure = stage_beside_another(project, name)
    assert "litmeter is at work on this machine already; waiting for it" in said
    assert failure.startswith(f"{name}: terminated")


@pytest.mark.parametrize("name", BESIDE_OTHERS)
def test_what_takes_seconds_waits_for_nobody(project: Path, name: str) -> None:
    said, failure = stage_beside_another(project, name)
    assert "waiting" not in said
    assert failure.startswith(f"{name}: ")  # there is neither a folder of photos nor a result
    assert "terminated" not in failure
