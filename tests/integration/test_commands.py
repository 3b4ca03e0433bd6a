"""The commands `litmeter serve` and `litmeter predict`, as a user runs them."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest
import requests

from litmeter.classifier.model.predictor import Predictor
from litmeter.cli.main import main
from litmeter.kinds.classifier import Classifier
from litmeter.kinds.server import StartedServer
from litmeter.paths import ModelFolders
from tests.support.asking import in_flight, post_image, wait_for
from tests.support.models import CLASSES
from tests.support.processes import processes_mentioning
from tests.support.server_processes import by_role, stopped
from tests.support.servers import free_port, healthy, make_project, running_server
from tests.support.stub_server import Handler


@pytest.fixture(scope="module")
def server(exported: ModelFolders) -> Iterator[StartedServer]:
    with running_server(exported, Classifier()) as running:
        yield running


def test_predict_asks_a_running_server(
    server: StartedServer,
    exported: ModelFolders,
    photos: list[Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    predictor = Predictor(exported, "cpu", Classifier())
    [expected] = predictor.predict([predictor.preprocess(photos[0].read_bytes())])
    text = tmp_path / "text.jpg"
    text.write_text("no image")
    missing = tmp_path / "missing.jpg"
    assert main(["predict", "--url", server.url, str(photos[0])]) == 0
    assert f"{photos[0]}: {CLASSES[int(expected.argmax())]}" in capsys.readouterr().out
    status = main(["predict", "--url", server.url, str(text), str(missing), str(photos[1])])
    captured = capsys.readouterr()
    assert status == 1
    assert f"{text}: refused, 400" in captured.err
    assert f"{missing}: No such file" in captured.err
    assert f"{photos[1]}: " in captured.out


def test_predict_asks_the_classifier_alone(photos: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as other:
        threading.Thread(target=other.serve_forever).start()
        assert main(["predict", "--url", f"http://127.0.0.1:{other.server_port}", str(photos[0])]) == 2
        other.shutdown()
    assert "is not the image classifier: its answer is '{}'" in capsys.readouterr().err


def test_predict_without_a_server_is_one_line(photos: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "--url", f"http://127.0.0.1:{free_port()}", str(photos[0])]) == 2
    assert "no answer from" in capsys.readouterr().err


COMMAND = [sys.executable, "-m", "litmeter.cli.main"]


@contextmanager
def serving(
    folder: Path, exported: ModelFolders, *options: str, **settings: object
) -> Iterator[subprocess.Popen[str]]:
    """`litmeter serve` of the project in ``folder``, as a shell starts it, from another folder."""
    (project := folder / "project").mkdir()
    make_project(project, exported, **settings)
    with subprocess.Popen(
        [*COMMAND, "--project", str(project), "serve", *options],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        try:
            yield process
        finally:
            process.terminate()


@pytest.mark.parametrize(("transport", "number"), [("direct", signal.SIGINT), ("litserve", signal.SIGTERM)])
@pytest.mark.smoke
def test_serve_says_where_it_is_ready_and_ends_quietly(
    transport: str, number: signal.Signals, exported: ModelFolders, photos: list[Path], tmp_path: Path
) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with serving(tmp_path, exported, "--port", str(port), transport=transport) as process:
        assert process.stdout.readline().startswith("starting")
        assert re.fullmatch(rf"ready after \d+\.\d s: {url}/predict .* {url} .*\n", process.stdout.readline())
        assert healthy(url)
        assert post_image(url, photos[0].read_bytes()).status_code == 200
        assert requests.get(url, timeout=10).headers["Content-Type"].startswith("text/html")
        process.send_signal(number)
        assert process.stdout.read() == ""
        assert process.wait() == 0
    assert processes_mentioning(f"--port {port}") == []


def test_sigterm_ends_serve_as_it_loads_and_leaves_no_process(exported: ModelFolders, tmp_path: Path) -> None:
    port = free_port()
    with serving(tmp_path, exported, "--port", str(port)) as process:
        assert process.stdout.readline().startswith("starting")
        process.send_signal(signal.SIGTERM)
        assert process.stdout.read() == ""
        # One that has not started its server yet ends as any other program.
        assert process.wait() in {0, 128 + signal.SIGTERM}
    assert processes_mentioning(f"--port {port}") == []


def test_a_second_ctrl_c_ends_serve_at_once(
    exported: ModelFolders, photos: list[Path], tmp_path: Path
) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with (
        serving(tmp_path, exported, "--port", str(port), drain_s=300.0) as process,
        ThreadPoolExecutor(1) as pool,
    ):
        assert [process.stdout.readline().split()[0] for _ in range(2)] == ["starting", "ready"]
        started = psutil.Process(process.pid).children(recursive=True)
        with stopped(by_role(url, "worker")):
            unfinished = pool.submit(post_image, url, photos[0].read_bytes())
            wait_for(lambda: in_flight(url) == 1)
            process.send_signal(signal.SIGINT)
            wait_for(lambda: requests.get(f"{url}/health", timeout=5).json()["status"] == "stopping")
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 128 + signal.SIGINT
            assert isinstance(unfinished.exception(), requests.ConnectionError)
    assert psutil.wait_procs(started, 60)[1] == []


def test_predict_ends_quietly_when_its_reader_has_gone(server: StartedServer, photos: list[Path]) -> None:
    ask = [*COMMAND, "predict", "--url", server.url, *map(str, photos)]
    with subprocess.Popen(ask, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 128 + signal.SIGPIPE
