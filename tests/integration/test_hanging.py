"""A worker that hangs is killed and replaced; a server that was stopped and continued loses nobody."""

from __future__ import annotations

import io
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from PIL import Image

from litmeter.kinds.classifier import Classifier
from litmeter.kinds.server import StartedServer
from litmeter.paths import ModelFolders
from tests.support.asking import health, in_flight, metric, post_image, wait_for
from tests.support.processes import processes_mentioning
from tests.support.server_processes import by_role
from tests.support.servers import running_server

TIMEOUT_S = 6.0
SETTINGS = Classifier(
    workers_per_device=2, threads_per_worker=1, transport="direct", worker_timeout_s=TIMEOUT_S
)


@pytest.fixture(scope="module")
def huge(photos: list[Path]) -> bytes:
    """A photo that a worker decodes for some tenths of a second."""
    with Image.open(photos[0]) as photo:
        photo.resize((5500, 5500)).save(buffer := io.BytesIO(), "JPEG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def server(exported: ModelFolders) -> Iterator[StartedServer]:
    with running_server(exported, SETTINGS) as running:
        yield running
        assert in_flight(running.url) == 0
        assert "Traceback" not in running.log.read_text()
    assert processes_mentioning(str(exported.exported)) == []


def alive(workers: list[psutil.Process]) -> list[psutil.Process]:
    return [one for one in workers if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]


def cpu_s(worker: psutil.Process) -> float:
    times = worker.cpu_times()
    return times.user + times.system


def killed(server: StartedServer) -> float:
    return metric(server.url, "litmeter_workers_killed_total")


def test_a_worker_that_hangs_is_killed_and_its_request_answered(
    server: StartedServer, huge: bytes, photos: list[Path]
) -> None:
    workers = by_role(server.url, "worker")
    with ThreadPoolExecutor(1) as pool:
        idle_s = [cpu_s(worker) for worker in workers]
        asked = pool.submit(post_image, server.url, huge)
        wait_for(lambda: [cpu_s(worker) for worker in workers] != idle_s)
        for worker in workers:  # one of them has the request
            worker.send_signal(signal.SIGSTOP)
        began = time.monotonic()
        assert not asked.done()
        wait_for(lambda: health(server) == (200, "degraded"), 2 * TIMEOUT_S + 2)
        wait_for(lambda: len(alive(workers)) == 1)
        answer = asked.result()
        assert time.monotonic() - began > TIMEOUT_S - 0.5
        [other] = alive(workers)
        other.send_signal(signal.SIGCONT)
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    assert post_image(server.url, photos[0].read_bytes()).status_code == 200
    wait_for(lambda: health(server) == (200, "ok"))
    assert killed(server) == 1
    [line] = [line for line in server.log.read_text().splitlines() if "hangs" in line]
    assert f"{TIMEOUT_S:g} s" in line
    assert other.pid in {process.pid for process in by_role(server.url, "worker")}


def test_a_server_that_was_stopped_and_continued_kills_nobody(server: StartedServer, huge: bytes) -> None:
    before, workers = killed(server), {process.pid for process in by_role(server.url, "worker")}
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(post_image, server.url, huge)
        wait_for(lambda: in_flight(server.url) == 1)
        time.sleep(0.1)
        server.pause()
        time.sleep(2 * TIMEOUT_S)
        server.resume()
        assert asked.result().status_code == 200
    assert killed(server) == before
    assert {process.pid for process in by_role(server.url, "worker")} == workers


LOOPS = """
import re
from litmeter.classifier.model import image
needed_parts = image.needed_parts
def looping(content):
    if content.endswith(b"loop"):
        re.fullmatch("(a|aa)+b", 100 * "a")  # for ever, and it never lets another thread run
    return needed_parts(content)
image.needed_parts = looping
"""
"""A sitecustomize.py, which Python runs at each start: a decoder that does not return from some files."""


def test_a_decoder_that_loops_costs_its_own_request_alone(
    exported: ModelFolders, photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(LOOPS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    photo = photos[0].read_bytes()
    with running_server(exported, SETTINGS) as server, ThreadPoolExecutor(1) as pool:
        looping = pool.submit(post_image, server.url, photo + b"loop")
        wait_for(lambda: in_flight(server.url) == 1)
        while not looping.done():
            assert post_image(server.url, photo).status_code == 200
        assert looping.result().status_code == 503
        assert killed(server) == 1
        wait_for(lambda: health(server) == (200, "ok"))
