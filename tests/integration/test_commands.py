"""The commands `servebench serve` and `servebench predict`, as a user runs them."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import requests

from servebench import cli
from servebench.params import ServeSettings
from servebench.paths import ModelFolders
from servebench.serving.launcher import RunningServer, free_port, running_server
from tests.support.processes import processes_mentioning
from tests.support.project import ROOT


@pytest.fixture(scope="module")
def server(exported: ModelFolders) -> Iterator[RunningServer]:
    with running_server(exported, ServeSettings(), "cpu", 30.0) as running:
        yield running


def test_predict_asks_a_running_server(
    server: RunningServer, photos: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "text.jpg"
    text.write_text("no image")
    missing = tmp_path / "missing.jpg"
    assert cli.main(["predict", "--url", server.url, str(photos[0])]) == 0
    assert f"{photos[0]}: " in capsys.readouterr().out
    status = cli.main(["predict", "--url", server.url, str(text), str(missing), str(photos[1])])
    captured = capsys.readouterr()
    assert status == 1
    assert f"{text}: refused, 400" in captured.err
    assert f"{missing}: No such file" in captured.err
    assert f"{photos[1]}: " in captured.out


def test_predict_without_a_server_is_one_line(photos: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["predict", "--url", f"http://127.0.0.1:{free_port()}", str(photos[0])]) == 1
    assert "no answer from" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("moment", "number"),
    [("loading", signal.SIGTERM), ("ready", signal.SIGTERM), ("ready", signal.SIGINT)],
)
def test_serve_answers_until_it_is_stopped_and_goes_quietly(
    exported: ModelFolders, photos: list[Path], tmp_path: Path, moment: str, number: signal.Signals
) -> None:
    params = (ROOT / "params.yaml").read_text()
    assert "  compiled: true" in params
    (tmp_path / "params.yaml").write_text(params.replace("  compiled: true", "  compiled: false"))
    shutil.copytree(exported.exported, tmp_path / "models/exported")
    port = free_port()
    command = [sys.executable, "-m", "servebench.cli.main"]
    with subprocess.Popen(
        [*command, "serve", "--port", str(port)],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as server:
        assert server.stdout is not None
        first = server.stdout.readline()
        assert f"http://127.0.0.1:{port}/predict" in first
        if moment == "ready":
            wait_for_health(port)
            ask = [*command, "predict", "--url", f"http://127.0.0.1:{port}"]
            answers = subprocess.run([*ask, *map(str, photos)], capture_output=True, text=True, check=True)
            assert len(answers.stdout.splitlines()) == len(photos)
            # A reader that has had enough is no error of ours.
            pipe = subprocess.Popen([*ask, *map(str, photos)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            assert pipe.stdout is not None
            assert pipe.stderr is not None
            pipe.stdout.readline()
            pipe.stdout.close()
            assert pipe.stderr.read() == b""
            pipe.stderr.close()
            assert pipe.wait() == 141
        server.send_signal(number)
        rest = server.stdout.read()
    # One that has not started its server yet ends as any other program.
    assert server.returncode in ({0, 143} if moment == "loading" else {0})
    assert rest == ""
    assert processes_mentioning(f"--port {port}") == []


def test_serve_without_the_compiled_model_says_what_makes_it(
    exported: ModelFolders,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "params.yaml", "params.yaml")
    assert cli.main(["serve", "--port", str(free_port())]) == 1
    assert "`dvc repro export` makes it" in capsys.readouterr().err
    shutil.copytree(exported.exported, "models/exported")
    assert cli.main(["serve", "--port", str(free_port())]) == 1
    assert "models/compiled: No such file" in capsys.readouterr().err


def wait_for_health(port: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with suppress(requests.ConnectionError):
            if requests.get(f"http://127.0.0.1:{port}/health", timeout=5).status_code == 200:
                return
        time.sleep(0.1)
    pytest.fail("it never became healthy")
