"""`litmeter check` on git repositories with a small server: verdicts, refusals, and what is left of it."""

from __future__ import annotations

import itertools
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from tests.support.processes import processes_mentioning
from tests.support.project import ROOT
from tests.support.servers import APIS

SERVER = """
import sys
from pathlib import Path
import stub_server

Path("model/weights").read_text()
answered = 0

class Handler(stub_server.Handler):
    seconds = {seconds}

    def status(self):
        global answered
        answered += 1
        return 500 if {fails} and answered % {fails} == 0 else 200

stub_server.serve(sys.argv[-1], Handler)
"""
OF_MODEL = "float(Path('sleep/seconds').read_text())"
OF_PARAMS = "__import__('yaml').safe_load(Path('params.yaml').read_text())['serve']['max_batch_size'] / 1000"
FAST_S, SLOW_S = 0.03, 0.09
COMMAND = "python server.py --port {port}"
BRIEF = ("--seconds", "5", "--users", "4")
GIT = ("-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "core.hooksPath=/dev/null")


@dataclass
class Repository:
    """A repository whose server needs a model that git ignores, and a folder for temporary files."""

    folder: Path
    temporary: Path

    def git(self, *words: str) -> str:
        command = ["git", *GIT, *words]
        return subprocess.run(command, cwd=self.folder, check=True, capture_output=True, text=True).stdout

    def commit(self) -> str:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", "a revision")
        return self.git("rev-parse", "HEAD").strip()

    def write(self, name: str, content: str) -> None:
        (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / name).write_text(content)

    def serve(self, seconds: float | str, fails: int = 0, name: str = "server.py") -> None:
        self.write(name, SERVER.format(seconds=seconds, fails=fails))

    def start(self, *options: str, within: str = ".") -> subprocess.Popen[str]:
        words = [sys.executable, "-m", "litmeter.cli.main", "check", *options]
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        pipes |= {"cwd": self.folder / within, "env": os.environ | {"TMPDIR": str(self.temporary)}}
        return subprocess.Popen(words, preexec_fn=heeds_signals, **pipes)

    def check(
        self, *options: str, command: str = COMMAND, within: str = "."
    ) -> subprocess.CompletedProcess[str]:
        body = str(self.folder / "body.json")
        process = self.start("--command", command, "--body", body, *BRIEF, *options, within=within)
        said, errors = process.communicate()
        return subprocess.CompletedProcess(process.args, process.returncode, said, errors)

    def left(self) -> list[Any]:
        """What there should not be after a check: processes, temporary files, worktrees."""
        worktrees = self.git("worktree", "list").splitlines()[1:]
        files = [path for path in self.temporary.iterdir() if path.name.startswith(".litmeter")]
        return [*processes_mentioning(str(self.temporary)), *self.servers(), *files, *worktrees]

    def servers(self) -> list[int]:
        """Ids of servers, which run in the repository or a worktree."""
        return [pid for pid in processes_mentioning("python server.py --port ") if self.runs(pid)]

    def runs(self, pid: int) -> bool:
        with suppress(psutil.Error):
            process = psutil.Process(pid)
            here = process.cwd().startswith((str(self.folder), str(self.temporary)))
            return here and "check" not in process.cmdline()
        return False


def heeds_signals() -> None:
    """A process in the background, or of nohup, ignores some."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """One commit with the fast server."""
    made = Repository(tmp_path / "project", tmp_path / "tmp")
    made.temporary.mkdir()
    made.folder.mkdir()
    made.git("init", "--quiet")
    made.write(".gitignore", "model/\n__pycache__/\n")
    made.write("body.json", '{"text": "hello"}')
    made.write("model/weights", "")
    shutil.copy(APIS / "stub_server.py", made.folder)
    made.serve(FAST_S)
    made.commit()
    return made


@pytest.mark.smoke
def test_a_slower_working_tree_of_a_server_whose_model_lies_above_it(repository: Repository) -> None:
    for name in ("model", "stub_server.py"):
        (repository.folder / "served").mkdir(exist_ok=True)
        (repository.folder / "served" / name).symlink_to(f"../{name}")
    repository.serve(FAST_S, name="served/server.py")
    repository.commit()
    repository.serve(SLOW_S, name="served/server.py")
    repository.write("served/new.py", "")
    summary = repository.folder.parent / "summary.md"
    options = ("--against", "HEAD", "--json", "--markdown", str(summary), "--max-start-s", "0.01")
    done = repository.check(*options, within="served")
    assert done.returncode == 1, done.stderr
    found = json.loads(done.stdout)
    assert (found["rate"], found["exit_code"]) == ("slower", 1)
    assert found["p95"] in ("slower", "open")
    assert found["new_over_old"]["ratio"] == pytest.approx(FAST_S / SLOW_S, rel=0.3)
    assert found["old"]["rate"] > found["new"]["rate"]
    assert "0.01" in found["exceeded"][0]
    text = summary.read_text()
    for said in ("| requests/s |", "server.py | 2 +-", "new.py | not tracked", "Both use: `model`"):
        assert said in text
    assert "__pycache__" not in text
    assert repository.left() == []


def test_an_experiment_beside_an_editable_install_of_the_working_tree(repository: Repository) -> None:
    """A folder on the path by a .pth file is what an editable install of a src layout is."""
    environment = repository.folder.parent / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    [packages] = environment.glob("lib/python*/site-packages")
    (packages / "__editable__.pth").write_text(str(repository.folder / "src"))
    repository.serve(SLOW_S, name="src/served/__main__.py")
    repository.write("src/served/__init__.py", "")
    repository.git("update-ref", f"refs/exps/ab/{'c' * 38}/slow-one", repository.commit())
    repository.serve(FAST_S, name="src/served/__main__.py")
    repository.commit()
    command = f"{shlex.quote(str(environment / 'bin/python'))} -m served --port {{port}}"
    done = repository.check("--against", "slow-one", command=command)
    assert done.returncode == 0, done.stderr
    assert "not slower: new (working tree) answers " in done.stdout
    assert repository.left() == []


def test_failed_requests(repository: Repository) -> None:
    repository.serve(FAST_S, fails=40)
    done = repository.check("--against", "HEAD")
    assert done.returncode == 1
    assert "status 500" in done.stdout
    commit = repository.commit()
    repository.serve(FAST_S)
    done = repository.check("--against", commit)
    assert done.returncode == 2
    assert f"old ({commit[:9]})" in done.stderr.splitlines()[-1]
    assert repository.left() == []


CHANGES: dict[str, Callable[[Repository], None]] = {
    "broken": lambda repository: repository.write("server.py", "raise SystemExit('there is no model')"),
    "refusing": lambda repository: repository.serve(FAST_S, fails=1),
    "other packages": lambda repository: repository.write("requirements.txt", "numpy>=1.26\n"),
}


@pytest.mark.parametrize(
    ("change", "options", "command", "said"),
    [
        ("broken", "", COMMAND, "old (HEAD): the server died (exit status 1); its log ends:"),
        ("refusing", "", COMMAND, "with 500"),
        ("other packages", "--against HEAD~1", COMMAND, "HEAD~1 needs other packages"),
        ("", "--against nothing", COMMAND, "nothing: neither a revision nor an experiment"),
        ("", "--margin 0.01", COMMAND, "--margin"),
        ("", "", "python server.py", "before it started a server"),
        ("", "--body none.json", COMMAND, "none.json"),
        ("", "--against ''", COMMAND, "--against: empty"),
        ("", "--markdown no/summary.md", COMMAND, "--markdown: got no/summary.md"),
        ("", "--markdown .", COMMAND, "--markdown: got ."),
        ("", "--own-model", COMMAND, "--own-model"),
    ],
)
def test_no_verdict_is_one_line_and_status_2(
    change: str, options: str, command: str, said: str, repository: Repository
) -> None:
    if change:
        CHANGES[change](repository)
        repository.commit()
    summary = repository.folder.parent / "summary.md"
    given = ["--against", "HEAD"] * ("--against" not in options) + shlex.split(options)
    given += ["--markdown", str(summary)] * ("--markdown" not in options)
    done = repository.check(*given, command=command)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert said.startswith(("--margin", "--markdown")) or said in summary.read_text()
    assert not (repository.folder / "no").exists()
    assert "Traceback" not in done.stderr
    assert repository.left() == []


def test_a_folder_without_git_or_anything_to_serve(tmp_path: Path, repository: Repository) -> None:
    process = repository.start("--against", "HEAD")
    assert "COMMAND: missing" in process.communicate()[1]
    assert process.returncode == 2
    (plain := tmp_path / "plain").mkdir()
    (plain / "body.json").write_text("{}")
    done = Repository(plain, repository.temporary).check("--against", "HEAD")
    assert done.returncode == 2
    assert "not a git repository" in done.stderr


@pytest.mark.parametrize(
    ("number", "when"),
    [
        *itertools.product((signal.SIGKILL, signal.SIGINT, signal.SIGTERM), ("worktree", "servers", "load")),
        (signal.SIGKILL, "restart"),
        (signal.SIGHUP, "load"),
    ],
)
def test_nothing_is_left_of_one_that_was_killed(
    number: signal.Signals, when: str, repository: Repository
) -> None:
    if when == "worktree":  # whose files take git a while to write
        for file in range(2000):
            repository.write(f"files/{file}", "")
        repository.commit()
    process = repository.start(
        *("--against", "HEAD", "--command", COMMAND, "--body", "body.json", "--seconds", "10")
    )
    servers: set[int] = set()

    def started() -> int:
        servers.update(repository.servers())
        return len(servers)

    begun: dict[str, Callable[[], bool]] = {
        "worktree": lambda: any((repository.folder / ".git/worktrees").glob("*")),
        "servers": lambda: started() > 0,
        "load": lambda: started() > 1,
        "restart": lambda: started() > 2,
    }
    wait_for(begun[when], process)
    time.sleep(1.0 if when == "load" else 0.0)
    process.send_signal(number)
    if number == signal.SIGHUP:  # the shell's, too
        process.send_signal(number)
    _, errors = process.communicate()
    if number != signal.SIGKILL:
        assert process.returncode == 128 + number
        assert "Traceback" not in errors
        assert repository.left() == []
    wait_for(lambda: not repository.servers())
    again = repository.check("--against", "HEAD", command="no-such-program {port}")
    assert again.returncode == 2
    assert repository.left() == []


def test_the_own_model_comes_from_the_cache(repository: Repository) -> None:
    """Of a model that DVC tracks; the code of both revisions is the same."""

    def dvc(*words: str) -> None:
        command = [sys.executable, "-m", "dvc", *words]
        subprocess.run(command, cwd=repository.folder, check=True, capture_output=True)

    repository.serve(OF_MODEL)
    repository.write(".gitignore", "model/weights\n__pycache__/\n")
    dvc("init", "--quiet")
    for sleep_s in (SLOW_S, FAST_S):
        repository.write("sleep/seconds", str(sleep_s))
        dvc("add", "--quiet", "sleep")
        repository.commit()
    done = repository.check("--against", "HEAD~1", "--own-model", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["new_over_old"]["ratio"] == pytest.approx(SLOW_S / FAST_S, rel=0.3)
    shutil.rmtree(repository.folder / ".dvc/cache")
    done = repository.check("--against", "HEAD~1", "--own-model")
    assert done.returncode == 2
    assert "sleep" in done.stderr.splitlines()[-1]
    assert repository.left() == []


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str] | None = None) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert process is None or process.poll() is None, "it ended"
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_each_revision_of_this_project_runs_its_own_code_and_params(repository: Repository) -> None:
    """The installed litmeter is an editable one, and must not serve either of them."""
    repository.serve(OF_PARAMS, name="src/litmeter/cli/main.py")
    repository.write("src/litmeter/__init__.py", "")
    repository.write("src/litmeter/cli/__init__.py", "")
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["load"]["bodies"] = "body.json"
    for name, rank in {"small": 1, "large": 20}.items():
        params["experiments"][name] = {"max_batch_size": rank}
    params["objective"]["configurations"] = ["small"]
    repository.write("params.yaml", yaml.safe_dump(params))
    repository.commit()
    params["experiments"]["large"]["max_batch_size"] = 60
    repository.write("params.yaml", yaml.safe_dump(params))
    summary = repository.folder.parent / "summary.md"
    process = repository.start(
        *("--against", "HEAD", "--configuration", "large", "--json", "--markdown", str(summary), *BRIEF)
    )
    said, errors = process.communicate()
    assert process.returncode == 1, errors
    assert json.loads(said)["new_over_old"]["ratio"] == pytest.approx(1 / 3, rel=0.3)
    assert "- `experiments.large.max_batch_size: 20 -> 60`" in summary.read_text()
    assert yaml.safe_load((repository.folder / "params.yaml").read_text()) == params
    assert repository.left() == []
