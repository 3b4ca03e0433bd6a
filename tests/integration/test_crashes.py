"""Processes of the direct transport's server die, hang and run out of places under real requests."""

from __future__ import annotations

import io
import shutil
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import requests
from PIL import Image

from litmeter.classifier.model.card import CARD_NAME
from litmeter.direct.binding import Binding
from litmeter.kinds.classifier import Classifier
from litmeter.kinds.server import StartedServer, bound_socket
from litmeter.measure.figures import read_scrape
from litmeter.paths import ModelFolders
from tests.support.asking import HEAD, health, in_flight, metric, post_image, wait_for
from tests.support.http_process import next_answer
from tests.support.processes import processes_mentioning
from tests.support.server_processes import by_role, loading_server, stopped, tree
from tests.support.servers import running_server

MAX_QUEUE = 12
SETTINGS = Classifier(
    max_batch_size=4, workers_per_device=2, threads_per_worker=1, transport="direct", max_queue=MAX_QUEUE
)


@pytest.fixture(scope="module")
def heavy(photos: list[Path]) -> bytes:
    """A photo that keeps a worker busy for much longer than a client."""
    with Image.open(photos[0]) as photo:
        photo.resize((3000, 2000)).save(buffer := io.BytesIO(), "JPEG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def server(exported: ModelFolders) -> Iterator[StartedServer]:
    with running_server(exported, SETTINGS) as running:
        yield running
        assert in_flight(running.url) == 0
        log = running.log.read_text()
        assert "Traceback" not in log
        assert all(len(line) < 160 for line in log.splitlines())
    assert processes_mentioning(str(exported.exported)) == []


def batched(server: StartedServer) -> float:
    return read_scrape(requests.get(f"{server.url}/metrics", timeout=10).text).batched[0]


def refusals(server: StartedServer) -> float:
    """Requests that have been answered with 503."""
    return metric(server.url, 'litmeter_request_seconds_count{code="503"}')


@pytest.mark.smoke
def test_a_killed_worker_loses_only_its_requests_and_comes_back(server: StartedServer, heavy: bytes) -> None:
    refused_before = refusals(server)
    victim, other = by_role(server.url, "worker")
    with ThreadPoolExecutor(MAX_QUEUE) as pool, stopped([victim, other]):
        asked = [pool.submit(post_image, server.url, heavy) for _ in range(MAX_QUEUE)]
        time.sleep(1.0)
        victim.send_signal(signal.SIGCONT)
        wait_for(lambda: any(answer.done() for answer in asked))
        victim.kill()  # with its next batch in its hands
        wait_for(lambda: health(server) == (200, "degraded"), 5)
        refused = refusals(server) - refused_before  # before any other worker could answer
        other.send_signal(signal.SIGCONT)
        answers = [answer.result() for answer in asked]
    lost = [answer for answer in answers if answer.status_code != 200]
    assert 1 <= len(lost) == refused <= SETTINGS.max_batch_size
    assert {(answer.status_code, answer.headers["Retry-After"]) for answer in lost} == {(503, "1")}
    wait_for(lambda: health(server) == (200, "ok"))
    workers = {process.pid for process in by_role(server.url, "worker")}
    assert (len(workers), workers & {other.pid, victim.pid}) == (2, {other.pid})
    assert post_image(server.url, heavy).status_code == 200
    assert f"worker {victim.pid} was killed by SIGKILL" in server.log.read_text()


def test_without_a_worker_health_is_down_and_requests_wait(server: StartedServer, photos: list[Path]) -> None:
    for worker in by_role(server.url, "worker"):
        worker.kill()
    wait_for(lambda: health(server) == (503, "down"), 5)
    assert post_image(server.url, photos[0].read_bytes()).status_code == 200
    wait_for(lambda: health(server) == (200, "ok"))


def test_a_killed_forkserver_is_replaced_with_its_workers(server: StartedServer, photos: list[Path]) -> None:
    workers = by_role(server.url, "worker")
    [forkserver] = {parent for worker in workers if (parent := worker.parent()) is not None}
    assert forkserver.pid != server.pid
    forkserver.kill()
    wait_for(lambda: not any(worker.is_running() for worker in workers), 5)
    assert post_image(server.url, photos[0].read_bytes()).status_code == 200
    wait_for(lambda: health(server) == (200, "ok"))
    assert len({worker.parent() for worker in by_role(server.url, "worker")}) == 1


def test_beyond_max_queue_requests_are_refused_before_their_body(
    server: StartedServer, photos: list[Path]
) -> None:
    photo = photos[0].read_bytes()
    refused_before = refusals(server)
    with stopped(by_role(server.url, "worker")), ThreadPoolExecutor(MAX_QUEUE) as pool:
        slow, leaves = connection(server), connection(server)
        slow.sendall(HEAD % len(photo) + photo[:100])  # takes no place yet
        leaves.sendall(HEAD % len(photo) + photo)
        waiting = [pool.submit(post_image, server.url, photo) for _ in range(MAX_QUEUE - 1)]
        wait_for(lambda: in_flight(server.url) == MAX_QUEUE + 1)
        with connection(server) as refused:
            refused.sendall(HEAD % len(photo))
            first = received(refused, b"full")
            assert first.startswith(b"HTTP/1.1 503")
            assert b"retry-after: 1" in first
            # What was not read is skipped: the next request on the connection is understood.
            refused.sendall(photo + b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            received(refused, b'{"status": "ok"')
            # A client that goes away leaves its place to others.
            leaves.close()
            wait_for(lambda: in_flight(server.url) == MAX_QUEUE)
            refused.sendall(HEAD % len(photo) + photo)
            slow.close()
            for process in by_role(server.url, "worker"):
                process.send_signal(signal.SIGCONT)
            assert b"HTTP/1.1 200" in received(refused, b"probabilities")
        assert [answer.result().status_code for answer in waiting] == [200] * len(waiting)
    assert refusals(server) == refused_before + 1


def received(client: socket.socket, expected: bytes) -> bytes:
    """What comes, up to what is expected; it may come in pieces."""
    content = b""
    while expected not in content:
        piece = client.recv(65_536)
        assert piece, content
        content += piece
    return content


def connection(server: StartedServer) -> socket.socket:
    host, port = server.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=10)


def test_an_upgrade_to_websocket_disturbs_no_other_answer(server: StartedServer, photos: list[Path]) -> None:
    photo = photos[0].read_bytes()
    upgrade = (
        b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n"
    )
    with connection(server) as client, client.makefile("rb") as stream:
        client.sendall(HEAD % len(photo) + photo + upgrade)
        (first, answer), (second, health) = next_answer(stream), next_answer(stream)
    assert (first, second) == (200, 200)
    assert b"probabilities" in answer
    assert b"workers" in health


def test_no_worker_works_for_a_client_that_went_away(server: StartedServer, photos: list[Path]) -> None:
    photo = photos[0].read_bytes()
    before = batched(server)
    with stopped(by_role(server.url, "worker")), ThreadPoolExecutor(2) as pool:
        for _ in range(5):
            with connection(server) as client:
                client.sendall(HEAD % len(photo) + photo)
                wait_for(lambda: in_flight(server.url) == 1)
            wait_for(lambda: in_flight(server.url) == 0, 5)
        stays = pool.submit(post_image, server.url, photo)
        wait_for(lambda: in_flight(server.url) == 1)
        for process in by_role(server.url, "worker"):
            process.send_signal(signal.SIGCONT)
        assert stays.result().status_code == 200
    assert batched(server) - before == 1


def test_a_worker_that_dies_right_after_each_start_is_started_after_ever_longer_pauses(
    exported: ModelFolders,
) -> None:
    """A start alone takes a fraction of a second."""
    settings = SETTINGS.model_copy(update={"workers_per_device": 1})
    with running_server(exported, settings, null=True) as server:
        for pause_s in (1.0, 2.0):
            [worker] = by_role(server.url, "worker")
            worker.kill()
            died = time.monotonic()
            wait_for(lambda: health(server) == (503, "down"))
            wait_for(lambda: health(server) == (200, "ok"))
            assert time.monotonic() - died >= pause_s


@pytest.mark.parametrize(("role", "status"), [("http", 1), ("main", -signal.SIGKILL)])
def test_the_server_ends_when_its_http_or_main_process_dies(
    role: str, status: int, exported: ModelFolders
) -> None:
    with running_server(exported, SETTINGS, null=True) as server:
        processes = tree(server)
        assert len(processes) == 6  # main, resource tracker, http, forkserver, two workers
        [victim] = by_role(server.url, role) if role == "http" else [psutil.Process(server.pid)]
        victim.kill()
        assert server.process.wait(60) == status
        assert psutil.wait_procs(processes, 60)[1] == []
        bound_socket(Binding(int(server.url.rsplit(":", 1)[1]))).close()
        assert role == "main" or "HTTP process was killed by SIGKILL" in server.log.read_text()


def test_the_server_ends_when_a_worker_dies_while_all_load(exported: ModelFolders, tmp_path: Path) -> None:
    with loading_server(exported, SETTINGS, tmp_path) as (server, _, workers):
        workers[0].kill()
        assert server.wait(60) == 1
        [line] = server.stderr.read().splitlines()
        assert f"worker {workers[0].pid} was killed by SIGKILL" in line


def test_the_server_ends_after_three_failed_starts_of_a_worker(
    exported: ModelFolders, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(exported.exported, tmp_path / "vanishing"))
    folders = ModelFolders(folder, exported.compiled)
    with running_server(folders, SETTINGS, null=True) as server:
        processes = tree(server)
        (folder / CARD_NAME).unlink()
        victim, _ = by_role(server.url, "worker")
        victim.kill()
        assert server.process.wait(120) == 1
        assert psutil.wait_procs(processes, 60)[1] == []
        log = server.log.read_text()
    assert log.count("before it was ready") == 3
