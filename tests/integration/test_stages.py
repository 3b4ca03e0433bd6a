"""How a stage starts, in whatever environment and beside others, and how it says that a value is wrong."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from litmeter.stages.__main__ import BESIDE_OTHERS
from litmeter.system.machine import lock_file
from tests.support.project import ROOT

SYSTEM_PYTHON = Path(sys.base_prefix, "bin/python3")
"""Belongs to no virtual environment, and lacks the project's packages; so does conda's."""


def git(folder: Path, *words: str) -> None:
    who = ("-c", "user.name=T", "-c", "user.email=t@example.org")
    subprocess.run(["git", *who, *words], cwd=folder, check=True)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A git repository with the project's parameters, and the .venv of this python."""
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-qm", "first")
    (tmp_path / ".venv").symlink_to(sys.prefix)
    return tmp_path


def stage(
    folder: Path, *words: str, python: str | Path = sys.executable, **variables: str
) -> subprocess.CompletedProcess[str]:
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
    assert stage(project, "unknown").returncode == 2


def refusal(project: Path, **variables: str) -> str:
    """What is said of a value that is not allowed, besides that."""
    params = project / "params.yaml"
    params.write_text(params.read_text().replace("max_batch_size: 4 ", "max_batch_size: 0 ", 1))
    done = stage(project, "machine", **variables)
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert line.startswith("machine: params.yaml: serve.max_batch_size: got 0; ")
    return line.partition(" or equal to 1")[2]


def test_a_refused_value_of_an_experiment_is_said_to_be_still_there(project: Path) -> None:
    """If an experiment wrote it, and git can take it back."""
    experiment = {"DVC_EXP_NAME": "lucky-newt"}
    assert refusal(project) == ""
    git(project, "checkout", "-q", "params.yaml")
    assert "git checkout params.yaml" in refusal(project, **experiment)
    git(project, "commit", "-qam", "wrong")
    assert refusal(project, **experiment) == ""
    shutil.rmtree(project / ".git")
    assert refusal(project, **experiment) == ""


def beside_another(project: Path, *words: str) -> tuple[str, str]:
    """What a stage says while something else has the machine, to its end, or until it waits."""
    command = [sys.executable, str(ROOT / "src/stage.py"), *words]
    environment, pipe = os.environ | {"TMPDIR": str(project)}, subprocess.PIPE
    with (
        FileLock(lock_file()),
        subprocess.Popen(
            command, cwd=project, env=environment, stdout=pipe, stderr=pipe, text=True
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


@pytest.mark.parametrize("words", [("train",), ("benchmark", "candidate")], ids=" ".join)
def test_what_computes_waits_for_whoever_computes_on_this_machine(
    project: Path, words: tuple[str, ...]
) -> None:
    """Without results it would fail at once if it began."""
    said, failure = beside_another(project, *words)
    assert "litmeter is at work on this machine already; waiting for it" in said
    assert failure.startswith(f"{words[0]}: terminated")


@pytest.mark.parametrize("name", BESIDE_OTHERS)
def test_what_takes_seconds_waits_for_nobody(project: Path, name: str) -> None:
    said, failure = beside_another(project, name)
    assert "waiting" not in said
    assert failure.startswith(f"{name}: ")  # there is neither a folder of photos nor a result
    assert "terminated" not in failure
