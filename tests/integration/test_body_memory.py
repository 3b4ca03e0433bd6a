"""Many large bodies at once take no more memory than they may; clients that only announce them take none."""

from __future__ import annotations

import os
import resource
import select
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
import requests

from litmeter.kinds.classifier import Classifier
from litmeter.kinds.server import StartedServer
from litmeter.paths import ModelFolders
from tests.support.asking import HEAD, in_flight, post_image, wait_for
from tests.support.server_processes import by_role
from tests.support.servers import running_server

MIB = 2**20
LIMIT_MIB = 64
CLIENTS = 30
BODY = os.urandom(15 * MIB)
SETTINGS = Classifier(workers_per_device=1, threads_per_worker=1, transport="direct", max_queue_mib=LIMIT_MIB)


@pytest.fixture(scope="module")
def server(exported: ModelFolders) -> Iterator[StartedServer]:
    with running_server(exported, SETTINGS) as running:
        yield running
        assert in_flight(running.url) == 0
        assert "Traceback" not in running.log.read_text()


def test_bodies_at_once_take_no_more_memory_than_they_may(server: StartedServer, photos: list[Path]) -> None:
    """450 MiB are offered. What is refused may be cut off while it is sent; small photos are answered."""
    [http] = by_role(server.url, "http")
    before, peak, done = http.memory_info().rss, [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.005):
            peak[0] = max(peak[0], psutil.Process(http.pid).memory_info().rss)

    def offer(_: int) -> int:
        try:
            return post_image(server.url, BODY).status_code
        except requests.ConnectionError:
            return 0

    good: list[int] = []

    def ask() -> None:
        while not done.is_set():
            good.append(post_image(server.url, photos[0].read_bytes()).status_code)

    threads = [threading.Thread(target=watch), threading.Thread(target=ask)]
    for thread in threads:
        thread.start()
    with ThreadPoolExecutor(CLIENTS) as pool:
        statuses = Counter(pool.map(offer, range(CLIENTS)))
    done.set()
    for thread in threads:
        thread.join()
    assert set(good) == {200}
    assert set(statuses) <= {400, 503, 0}, statuses  # random bytes are no image
    assert statuses[400] >= 1
    assert statuses[503] + statuses[0] >= 1
    # A body is put together from its parts once, and copied once to a worker.
    assert peak[0] - before < 3 * LIMIT_MIB * MIB


def test_slow_bodies_keep_out_no_request_that_comes_at_once(
    server: StartedServer, photos: list[Path]
) -> None:
    """As many as the server takes of either; of the slow ones, those beyond are refused."""
    most, beyond, photo = SETTINGS.max_queue, 50, photos[0].read_bytes()
    resource.setrlimit(resource.RLIMIT_NOFILE, 2 * resource.getrlimit(resource.RLIMIT_NOFILE)[1:])
    address = urlsplit(server.url)
    with ExitStack() as stack:
        slow = [
            stack.enter_context(socket.create_connection((address.hostname or "", address.port or 0)))
            for _ in range(most + beyond)
        ]
        poll = select.poll()
        for connection in slow:
            connection.sendall(HEAD % 1000 + b"x")
            poll.register(connection, select.POLLIN)
        good = [post_image(server.url, photo).status_code]
        wait_for(lambda: len(poll.poll(0)) == beyond)
        good += [post_image(server.url, photo).status_code for _ in range(20)]
        assert set(good) == {200}
        assert in_flight(server.url) == most
        refused = [connection for connection in slow if connection.fileno() in dict(poll.poll(0))]
        assert {connection.recv(12) for connection in refused} == {b"HTTP/1.1 503"}


def test_clients_that_only_announce_large_bodies_keep_nobody_out(
    server: StartedServer, photos: list[Path]
) -> None:
    address = urlsplit(server.url)
    with ExitStack() as stack:
        for _ in range(50):
            connection = socket.create_connection((address.hostname or "", address.port or 0))
            stack.enter_context(connection).sendall(HEAD % (15 * MIB) + b"x")
        wait_for(lambda: in_flight(server.url) >= 50)
        assert post_image(server.url, photos[0].read_bytes()).status_code == 200
