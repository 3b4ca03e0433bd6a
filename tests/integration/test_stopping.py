"""A server that is told to stop finishes what it has accepted, refuses what is new, and leaves nothing."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
import requests

from litmeter.classifier.model.card import WEIGHTS_NAME
from litmeter.direct.binding import Binding
from litmeter.kinds.classifier import Classifier
from litmeter.kinds.server import StartedServer, bound_socket
from litmeter.paths import ModelFolders
from tests.support.asking import HEAD, in_flight, post_image, wait_for
from tests.support.server_processes import by_role, loading_server, started_server, stopped, tree
from tests.support.servers import running_server

SETTINGS = Classifier(max_batch_size=4, workers_per_device=2, threads_per_worker=1, transport="direct")
WAITING = 10
JPEG = {"Content-Type": "image/jpeg"}


@contextmanager
def server_with_requests_waiting(
    exported: ModelFolders, photo: bytes, drain_s: float
) -> Iterator[tuple[StartedServer, list[psutil.Process], list[Future[requests.Response]]]]:
    """The server, its workers, which stand still, and requests that it has accepted; then nothing is left."""
    settings = SETTINGS.model_copy(update={"drain_s": drain_s})
    with (
        running_server(exported, settings, "cpu", 60.0, null=True) as server,
        ThreadPoolExecutor(WAITING) as pool,
        stopped(workers := by_role(server.url, "worker")),
    ):
        processes = tree(server)
        waiting = [pool.submit(post_image, server.url, photo) for _ in range(WAITING)]
        wait_for(lambda: in_flight(server.url) == WAITING)
        yield server, workers, waiting
        assert psutil.wait_procs(processes, 60)[1] == []
        bound_socket(Binding(int(server.url.rsplit(":", 1)[1]))).close()


def is_stopping(server: StartedServer) -> bool:
    return bool(requests.get(f"{server.url}/health", timeout=5).json()["status"] == "stopping")


@pytest.mark.parametrize("everyone", [False, True])
def test_accepted_requests_are_finished_and_new_ones_refused(
    everyone: bool, exported: ModelFolders, photos: list[Path]
) -> None:
    """The signal comes to the main process, or to every process, as systemd and a terminal send it."""
    photo = photos[0].read_bytes()
    with (
        server_with_requests_waiting(exported, photo, 300.0) as (server, workers, waiting),
        socket.create_connection(("127.0.0.1", urlsplit(server.url).port or 0), timeout=60) as half,
    ):
        half.sendall(HEAD % len(photo) + photo[:100])
        wait_for(lambda: in_flight(server.url) == WAITING + 1)
        told = tree(server) if everyone else [psutil.Process(server.pid)]
        for process in told:
            process.send_signal(signal.SIGINT if everyone else signal.SIGTERM)
        wait_for(lambda: is_stopping(server))
        for _ in range(2):
            answer = requests.get(f"{server.url}/health", timeout=5)
            assert (answer.status_code, answer.json()["status"]) == (503, "stopping")
            answer = post_image(server.url, photo)
            assert answer.status_code == 503
            assert (answer.headers["Connection"], answer.headers["Retry-After"]) == ("close", "1")
        half.sendall(photo[100:])
        for worker in workers:
            worker.send_signal(signal.SIGCONT)
        assert half.recv(12) == b"HTTP/1.1 200"
        assert [answer.result().status_code for answer in waiting] == [200] * WAITING
        assert server.process.wait(60) == 0
        assert server.log.read_text() == ""


def test_requests_that_are_unfinished_in_time_get_503(exported: ModelFolders, photos: list[Path]) -> None:
    with server_with_requests_waiting(exported, photos[0].read_bytes(), 0.5) as (server, _, waiting):
        server.process.terminate()
        answers = [answer.result() for answer in waiting]
        assert {answer.status_code for answer in answers} == {503}
        assert server.process.wait(60) == 1
        [line] = server.log.read_text().splitlines()
        assert {str(WAITING), "0.5"} <= set(line.split())


@pytest.mark.smoke
def test_under_load_no_accepted_request_is_lost(exported: ModelFolders, photos: list[Path]) -> None:
    """Users that ask without pause until they are refused: whatever was sent before has its answer."""
    photo = photos[0].read_bytes()
    statuses: list[int] = []
    told = threading.Event()

    def user(url: str) -> None:
        with requests.Session() as session:
            while True:
                sent_before = not told.is_set()
                try:
                    answer = session.post(f"{url}/predict", data=photo, headers=JPEG)
                except requests.ConnectionError:
                    assert not sent_before
                    return
                statuses.append(answer.status_code)
                if answer.status_code != 200:
                    return

    with running_server(exported, SETTINGS) as server, ThreadPoolExecutor(8) as pool:
        processes = tree(server)
        users = [pool.submit(user, server.url) for _ in range(8)]
        while len(statuses) < 100:
            time.sleep(0.01)
        told.set()
        time.sleep(0.2)  # what was sent before has come to the server by then
        server.process.terminate()
        assert server.process.wait(60) == 0
        for done in users:
            done.result()
        assert psutil.wait_procs(processes, 60)[1] == []
    assert set(statuses) <= {200, 503}


@pytest.mark.parametrize("transport", ["direct", "litserve"])
def test_a_server_that_still_reads_its_model_stops_at_once(
    transport: str, exported: ModelFolders, tmp_path: Path
) -> None:
    """Weights that never come, from a named pipe."""
    folder = Path(shutil.copytree(exported.exported, tmp_path / "exported"))
    (folder / WEIGHTS_NAME).unlink()
    os.mkfifo(folder / WEIGHTS_NAME)
    folders = ModelFolders(folder, exported.compiled)
    settings = SETTINGS.model_copy(update={"transport": transport})
    with (
        started_server(folders, settings, tmp_path) as server,
        (folder / WEIGHTS_NAME).open("wb"),  # opens when the server opens its end
    ):
        server.terminate()
        assert server.wait(25) == 0  # LitServe kills what has not ended after 30 s
        assert server.stderr.read() == ""


def test_a_server_whose_workers_still_load_stops_at_once(exported: ModelFolders, tmp_path: Path) -> None:
    """Every process is told, the main one last."""
    with loading_server(exported, SETTINGS, tmp_path) as (server, started, _):
        for process in started:
            process.send_signal(signal.SIGINT)
        assert len(psutil.wait_procs(started, 0.5)[1]) == len(started)
        server.send_signal(signal.SIGINT)
        assert server.wait(60) == 0
        assert server.stderr.read() == ""
