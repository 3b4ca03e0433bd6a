"""Real DVC in real git clones of the project as it stands in the working tree."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from filelock import FileLock

from litmeter.measure.log import UNFINISHED
from litmeter.paths import COMPARISON
from tests.support.project import ROOT

NOT_A_USERS = ("VIRTUAL_ENV", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE")
PET = "data/sample/oxford-iiit-pet"
COLOURS = re.compile(r"\x1b\[[0-9;]*m")
TINY: dict[str, Any] = {
    "device": "cpu",
    "model": {"name": "test_efficientnet", "pretrained": "none", "image_size": 64},
    "train": {"epochs": 1},
    "serve": {"workers_per_device": 1},
    "experiments": {"e1_baseline": {"precision": "full"}},
    "load": {"users": [1, 4], "requests": 20, "min_s": 0.3, "max_s": 5.0, "warmup_s": 0.1},
    "comparison": {"reference": "e1_baseline", "users": 2, "seconds": 1.0},
    "objective": {"configurations": ["candidate"]},
    "compile": {"batch_sizes": [], "int8_photos": 0},
}


@dataclass(frozen=True)
class Clone:
    """A clone with an environment of its own, used without activating it."""

    path: Path

    def run(self, *command: str, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            command, cwd=self.path, env=self.environment, capture_output=True, text=True, **options
        )
        assert not check or done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done

    def start(self, *command: str) -> subprocess.Popen[str]:
        # A shell in the background ignores Ctrl-C, and whoever it starts inherits that.
        options: dict[str, Any] = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
        options |= {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        options |= {"cwd": self.path, "env": self.environment, "start_new_session": True}
        return subprocess.Popen(command, **options)

    def wait_for(self, line: str, process: subprocess.Popen[str]) -> None:
        """Read what ``start`` started until it says ``line``."""
        for text in process.stdout:
            if line in text:
                return
        pytest.fail(f"it never said {line!r}")

    def end(self, process: subprocess.Popen[str]) -> None:
        """End it by Ctrl-C, or what a failed test would leave to the next one by SIGKILL."""
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGINT)
        try:
            process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()

    def processes(self, text: str = "") -> list[psutil.Process]:
        """Living processes that work in the clone, and whose command line holds ``text``."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if text in " ".join(process.cmdline()) and Path(process.cwd()).is_relative_to(self.path):
                    found.append(process)
        return found

    def wait_until_alone(self, within_s: float = 30.0) -> None:
        """Until nobody works in the clone any more; fail if somebody stays."""
        deadline = time.monotonic() + within_s
        while left := self.processes():
            assert time.monotonic() < deadline, left
            time.sleep(0.1)

    def unfinished_logs(self, stage: str) -> list[Path]:
        """The logs of runs of a stage that were stopped."""
        return list((self.path / UNFINISHED).glob(f"{stage}-*.jsonl"))

    def unfinished_lines(self, stage: str) -> list[str]:
        """The whole lines of such a log."""
        return [line for path in self.unfinished_logs(stage) for line in path.read_text().split("\n")[:-1]]

    @property
    def dvc_path(self) -> str:
        return str(self.path / ".venv/bin/dvc")

    def dvc(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.run(self.dvc_path, *arguments, check=check)

    def status(self) -> dict[str, Any]:
        """What `dvc repro` would run, and why; capacities and the search are no part of it."""
        found: dict[str, Any] = json.loads(self.dvc("status", "--json").stdout)
        return {stage: why for stage, why in found.items() if not stage.startswith("ondemand/")}

    def in_terminal(self, *command: str, columns: int) -> list[str]:
        """The lines that it writes to a terminal of so many columns, without their colours."""
        ours, its = os.openpty()
        with os.fdopen(ours, "rb", buffering=0) as screen:
            try:
                fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("4H", 40, columns, 0, 0))
                own = {k: v for k, v in self.environment.items() if k != "COLUMNS"} | {"PAGER": "cat"}
                process = subprocess.Popen(command, cwd=self.path, env=own, stdin=its, stdout=its, stderr=its)
            finally:
                os.close(its)
            written = b""
            with suppress(OSError):  # EIO: the last who could write has ended
                while part := screen.read(65536):
                    written += part
        assert process.wait() == 0, written
        return COLOURS.sub("", written.decode()).splitlines()

    def git(self, *arguments: str) -> str:
        return self.run("git", *arguments).stdout

    def commit(self, message: str) -> None:
        self.git("add", "-A")
        self.git("commit", "-qm", message)

    @property
    def environment(self) -> dict[str, str]:
        """As a user's shell has it: no environment activated, the system's python first."""
        kept = {k: v for k, v in os.environ.items() if k not in NOT_A_USERS}
        own = str(Path(sys.prefix) / "bin")
        kept["PATH"] = os.pathsep.join(p for p in os.environ["PATH"].split(os.pathsep) if p != own)
        identity = {"NAME": "Test", "EMAIL": "test@example.org"}
        for role in ("AUTHOR", "COMMITTER"):
            kept |= {f"GIT_{role}_{key}": value for key, value in identity.items()}
        return kept | {"DVC_NO_ANALYTICS": "1", "COLUMNS": "160"}

    def change(self, changes: Mapping[str, Any]) -> None:
        """Merge ``changes`` into params.yaml; ``experiments`` is replaced."""
        path = self.path / "params.yaml"
        content = yaml.safe_load(path.read_text())
        for key, value in changes.items():
            if isinstance(value, Mapping) and key != "experiments":
                content[key] = content.get(key, {}) | value
            else:
                content[key] = value
        path.write_text(yaml.safe_dump(content, sort_keys=False))

    def restore(self) -> None:
        """As it was committed: settings, results, models, and without any experiment of DVC's."""
        self.git("checkout", "-q", ".")
        self.git("clean", "-fdq")
        experiments = self.git("for-each-ref", "--format=delete %(refname)", "refs/exps")
        self.run("git", "update-ref", "--stdin", input=experiments)
        self.dvc("checkout", "-q", "--force")

    def keep_few_photos(self) -> None:
        """Of the photos of each list every eighth, with both species in each split: 47 of 370.

        They lie as they did; all 370 are read by the unit tests of the sources.
        """
        kept = set()
        for path in (self.path / PET / "annotations").glob("*.txt"):
            lines = path.read_text().splitlines()[::8]
            path.write_text("".join(f"{line}\n" for line in lines))
            kept |= {line.split()[0] for line in lines}
        for photo in (self.path / PET / "images").iterdir():
            if photo.stem not in kept:
                photo.unlink()

    def stages_run(self, output: str) -> list[str]:
        """The stages that a `dvc repro` or `dvc exp run` ran, from its output."""
        lines = output.splitlines()
        return [line.split("'")[1] for line in lines if line.startswith("Running stage '")]


class Activated(Clone):
    """A project whose shell has this environment activated."""

    @property
    def environment(self) -> dict[str, str]:
        own = super().environment
        return own | {"PATH": f"{Path(sys.prefix) / 'bin'}{os.pathsep}{own['PATH']}"}


def copy_of_tree(source: Path, folder: Path) -> None:
    """Copy what git has of a folder of the working tree, or would add."""
    listed = ["git", "ls-files", "-co", "--exclude-standard", "-z", "."]
    found = subprocess.run(listed, cwd=source, capture_output=True, text=True, check=True).stdout
    for name in found.rstrip("\0").split("\0"):
        if (source / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source / name, folder / name)


def copy_of_example(name: str, folder: Path) -> Activated:
    """The example, copied out of the working tree: a DVC repository of its own, not committed."""
    copy_of_tree(ROOT / "examples" / name, folder)
    project = Activated(folder)
    project.git("init", "-qb", "main")
    project.run("dvc", "init", "-q")
    return project


def rows_of(clone: Clone, content: str | None = None) -> dict[str, dict[str, Any]]:
    """Rows of the comparison, by configuration; ``content``: of another commit's file."""
    text = (clone.path / COMPARISON).read_text() if content is None else content
    return {row["experiment"]: row for row in json.loads(text)["rows"]}


def results_of(clone: Clone) -> dict[str, bytes]:
    folders = [clone.path / "metrics", clone.path / "plots"]
    return {str(path): path.read_bytes() for folder in folders for path in folder.rglob("*.*")}


@pytest.fixture(scope="session")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with one commit: the working tree as it is."""
    path = tmp_path_factory.mktemp("origin")
    copy_of_tree(ROOT, path)
    clone = Clone(path)
    clone.git("init", "-qb", "main")
    clone.commit("the project")
    return path


@pytest.fixture(scope="session")
def new_clone(origin: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Clone]:
    """Makes fresh clones that have this environment as their .venv."""

    def make() -> Clone:
        path = tmp_path_factory.mktemp("clone") / "litmeter"
        subprocess.run(["git", "clone", "-q", str(origin), str(path)], check=True)
        (path / ".venv").symlink_to(sys.prefix)
        return Clone(path)

    return make


def run_once(clone: Clone) -> None:
    """What `make run` does, with a configuration small enough to be quick, committed.

    The committed results of all others stay where they are.
    """
    clone.change(TINY)
    clone.keep_few_photos()
    clone.commit("a small configuration")
    done = clone.dvc("repro")
    stages = "machine data train export compile packages precisions ceilings benchmark@e1_baseline candidate"
    assert clone.stages_run(done.stdout) == [*stages.split(), "comparison", "report"]
    assert "stage 12 of 12 (report)" in done.stdout
    for command in ("results", "report"):
        clone.run(str(clone.path / ".venv/bin/litmeter"), command)
    clone.commit("results of this machine")


@pytest.fixture(scope="session")
def ran(new_clone: Callable[[], Clone], worker_id: str, tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """A clone in which `make run` has been through and is committed.

    Its HEAD before held other numbers: those of the project. Processes of pytest side by side have a copy
    each.
    """
    clone = new_clone()
    if worker_id == "master":  # alone
        run_once(clone)
        return clone
    first = tmp_path_factory.getbasetemp().parent / "ran"
    with FileLock(first.with_suffix(".lock")):
        if not first.exists():
            run_once(clone)
            clone.path.rename(first)
    shutil.rmtree(clone.path, ignore_errors=True)
    shutil.copytree(first, clone.path, symlinks=True)
    return clone
