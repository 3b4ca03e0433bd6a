"""`litmeter compare` of servers of one's own: what it says, and what its JSON has."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from litmeter.cli.main import main
from litmeter.system.machine import lock_file
from tests.support.servers import APIS

SERVERS = ["fast=python server.py {port} 0.01", "slow=python server.py {port} 0.1 a-word-that-is-long"]
GIVEN = ["--ready", "/", "--body", "a.json", "--users", "2", "--seconds", "6"]


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(APIS / "stub_server.py", tmp_path / "server.py")
    (tmp_path / "a.json").write_text("{}")
    monkeypatch.chdir(tmp_path)


@pytest.mark.smoke
def test_json_has_the_figures_of_each_and_of_each_pair(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", *SERVERS, *GIVEN, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    fast, slow = found["configurations"]
    assert [(one["name"], one["rank"]) for one in (fast, slow)] == [("fast", 1), ("slow", 2)]
    assert fast["rate_rps"] > slow["rate_rps"] > 0
    assert slow["ratio_low"] <= slow["ratio"] <= slow["ratio_high"] < 1
    assert slow["p50_ms"] >= 100
    assert fast["failed"] == slow["failed"] == 0
    assert fast["held_back_by"] is slow["held_back_by"] is None  # of a command it is not known
    [pair] = found["pairs"]
    assert (found["users"], pair["name"], pair["verdict"]) == (2, "slow", "slower")


REFUSING = """
import sys

import server

class Handler(server.Handler):
    tried, refused = 0, int(sys.argv[2])

    def status(self):
        if b"bad" not in self.body and self.refused:
            return 200
        Handler.tried += 1
        return 422 if self.tried <= self.refused or (not self.refused and self.tried % 2 == 0) else 200

server.serve(sys.argv[1], Handler)
"""


def test_a_server_that_fails_requests_is_no_winner_and_said_first(capsys: pytest.CaptureFixture[str]) -> None:
    Path("refusing.py").write_text(REFUSING)
    servers = ["good=python server.py {port} 0.01", "half=python refusing.py {port} 0"]
    assert main(["compare", *servers, *GIVEN]) == 1
    out = capsys.readouterr().out
    [row] = [line for line in out.splitlines() if line.startswith("| half")]
    assert "requests fail" in row
    said = [line for line in out.splitlines() if line and line[0] != "|" and "python" not in line]
    assert said[0].startswith("Requests fail: half")


def test_a_body_that_is_never_answered_ends_the_run_and_one_that_is_answered_later_does_not(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("refusing.py").write_text(REFUSING)
    Path("bad.json").write_text('"bad"')
    given = [*GIVEN, "--body", "bad.json"]
    assert main(["compare", "python refusing.py {port} 4", *given]) == 0
    assert main(["compare", "python refusing.py {port} 999999", *given]) != 0
    error = " ".join(capsys.readouterr().err.split())
    assert "body 2 of 2 is never answered with 200" in error
    assert "422" in error


def test_what_is_compared_stands_below_the_table_within_the_terminals_width(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "50")
    assert main(["compare", *SERVERS, *GIVEN]) == 0
    said = [line for line in capsys.readouterr().out.splitlines() if not line.startswith("|")]
    assert max(map(len, said)) <= 50
    text = " ".join(" ".join(said).split())
    assert all(server.replace("=", ": ", 1) in text for server in SERVERS)


@pytest.mark.parametrize(
    "command",
    [["compare", *SERVERS, *GIVEN], ["tune", "module:API", "--body", "a.json"]],
    ids=lambda own: own[0],
)
def test_what_measures_waits_for_whoever_measures_on_this_machine(tmp_path: Path, command: list[str]) -> None:
    Path("module.py").write_text("import litserve\n\nclass API(litserve.LitAPI): pass\n")
    with (
        FileLock(lock_file()),
        subprocess.Popen(
            [sys.executable, "-m", "litmeter.cli.main", *command],
            env=os.environ | {"TMPDIR": str(tmp_path)},  # whose temporary files are elsewhere
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as running,
    ):
        said = []
        for line in running.stdout:
            said.append(line)
            if "waiting" in line:
                running.terminate()
        assert any("waiting for it" in line for line in said), said
