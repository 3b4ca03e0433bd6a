"""Changes of each experiment of `dvc exp run`, read from its revision."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import struct
import subprocess
import sys
import termios
from contextlib import suppress
from pathlib import Path

import pytest

from litmeter.paths import COMPARISON, SUMMARY
from litmeter.report.changes import describe_experiment, experiments, show_experiments

FASTER = {"changes": {"max_batch_size": [4, 8]}, "ratio": 1.2, "low": 1.1, "high": 1.3}


def git(*arguments: str) -> str:
    command = ["git", "-c", "user.name=a", "-c", "user.email=a@b.example", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def commit(max_batch_size: int, epochs: int, over: dict[str, object]) -> str:
    Path("params.yaml").write_text(
        f"serve: {{max_batch_size: {max_batch_size}}}\ntrain: {{epochs: {epochs}}}\n"
    )
    COMPARISON.parent.mkdir(exist_ok=True)
    COMPARISON.write_text(json.dumps({"over_before": over}))
    git("add", ".")
    git("commit", "--allow-empty", "-m", "results")
    return git("rev-parse", "HEAD")


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    git("init")
    return commit(4, 2, {})


def test_the_experiments_are_those_of_dvcs_references(base: str) -> None:
    revision = commit(8, 2, FASTER)
    git("update-ref", f"refs/exps/{base[:2]}/{base[2:]}/my-name", revision)
    git("update-ref", "refs/exps/exec/EXEC_BASELINE", base)
    assert list(experiments()) == [("my-name", base, revision)]


def test_a_change_of_serve_is_told_with_its_effect_and_others_by_their_keys(base: str) -> None:
    told = describe_experiment("fast", base, commit(8, 3, FASTER))
    parts = ("fast: ", "train.epochs 2 -> 3", "max_batch_size 4 -> 8", "1.20 (1.10 to 1.30)", "faster")
    assert all(part in told for part in parts)
    assert describe_experiment("slow", base, commit(8, 2, {})) == "slow: serve.max_batch_size 4 -> 8"
    assert "->" not in describe_experiment("same", base, commit(4, 2, {}))


def test_what_the_base_had_measured_is_not_said_of_the_experiment(base: str) -> None:
    before = commit(8, 2, FASTER)
    assert describe_experiment("longer", before, commit(8, 9, FASTER)) == "longer: train.epochs 2 -> 9"


SETTING = "serve:\n  max_batch_size: 4\n"
"""As `dvc exp run -S` leaves it."""
COPY = """
stages:
  copy:
    cmd: cp params.yaml copied.yaml
    params: [serve.max_batch_size]
    outs: [copied.yaml: {cache: false}]
"""


@pytest.mark.parametrize("place", [".", "below"], ids=["DVC above", "DVC below"])
def test_experiments_of_a_project_below_a_repositorys_root_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], place: str
) -> None:
    """Real ones, beside another params.yaml in the root, which is none of its."""
    monkeypatch.chdir(tmp_path)
    git("init")
    for name, value in {"user.name": "a", "user.email": "a@b.example"}.items():
        git("config", name, value)
    (tmp_path / "params.yaml").write_text("another: 1\n")
    (below := tmp_path / "below").mkdir()
    (below / "params.yaml").write_text(SETTING)
    (below / "dvc.yaml").write_text(COPY)
    monkeypatch.chdir(place)
    dvc("init", *(["--subdir"] if place == "below" else []))
    monkeypatch.chdir(below)
    git("add", "--all", str(tmp_path))
    git("commit", "-m", "project")
    dvc("exp", "run", "--quiet", "--name", "larger", "-S", "serve.max_batch_size=8")
    capfd.readouterr()
    assert show_experiments() == 0
    assert "larger: serve.max_batch_size 4 -> 8\n" in capfd.readouterr().out


def dvc(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "dvc", *arguments], check=True, capture_output=True)


def test_all_rates_are_shown_in_a_terminal_of_80_columns(base: str) -> None:
    names = ["candidate", *(f"e{number}" for number in range(1, 8))]
    SUMMARY.write_text(json.dumps({name: 100.0 + number for number, name in enumerate(names)}))
    Path("dvc.yaml").write_text(f"metrics: [{SUMMARY}]\n")
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], check=True)
    before, after = commit(4, 2, {}), commit(8, 2, FASTER)
    git("update-ref", f"refs/exps/{before[:2]}/{before[2:]}/my-name", after)
    git("reset", "--hard", before)
    shown = in_terminal(80, [sys.executable, "-m", "litmeter.cli.main", "experiments"])
    assert max(map(len, shown.splitlines())) <= 80
    cells = {cell.strip() for line in shown.splitlines() for cell in line.split("|")}
    assert {*names, *(f"{100 + number}" for number in range(8)), "my-name", "workspace"} <= cells
    assert "max_batch_size 4 -> 8" in shown


def in_terminal(columns: int, command: list[str]) -> str:
    """What a command prints in a terminal of that many columns."""
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 25, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    process = subprocess.Popen(command, stdin=its, stdout=its, stderr=subprocess.DEVNULL, env=environment)
    os.close(its)
    found = b""
    with suppress(OSError):  # its end
        while read := os.read(ours, 65536):
            found += read
    os.close(ours)
    assert process.wait() == 0
    return found.decode().replace("\r", "")
