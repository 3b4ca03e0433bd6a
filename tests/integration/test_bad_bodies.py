"""A table of bad requests against the real server, while good ones are answered."""

from __future__ import annotations

import http.client
import itertools
import json
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
import requests

from litmeter.kinds.classifier import Classifier
from litmeter.kinds.server import StartedServer
from litmeter.paths import ModelFolders
from tests.support.asking import in_flight, wait_for
from tests.support.bad_bodies import (
    CLOSED,
    ELSEWHERE_CASES,
    IMAGE_CASES,
    JSON_CASES,
    SIZE_CASES,
    TYPE_CASES,
    Case,
)
from tests.support.bad_http import HTTP_CASES
from tests.support.server_processes import tree
from tests.support.servers import running_server

CASES = [*JSON_CASES, *SIZE_CASES, *TYPE_CASES, *ELSEWHERE_CASES, *HTTP_CASES]

SETTINGS = {
    "direct": Classifier(
        transport="direct",
        max_batch_size=4,
        workers_per_device=2,
        threads_per_worker=1,
        preprocess="torchvision",
    ),
    "litserve": Classifier(max_batch_size=4, batch_timeout_s=0.01, threads_per_worker=1),
}
LEAK = re.compile(r"Traceback|object at 0x|\.py\b|/site-packages|/home/|/tmp/")


@dataclass
class Traffic:
    """Good requests without a pause, from two clients, beside the bad ones.

    Attributes:
        quiet: each photo's answer from a server that did nothing else.
        wrong: what they got that was not right.
    """

    transport: str
    server: StartedServer
    photos: list[bytes]
    quiet: list[dict[str, Any]]
    processes: set[psutil.Process]
    answered: int = 0
    wrong: list[str] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    def run(self, start: int) -> None:
        with requests.Session() as session:
            session.trust_env = False  # pytest changes the environment between tests, while requests reads it
            for number in itertools.islice(itertools.cycle(range(len(self.photos))), start, None):
                if self.over.wait(0.02):
                    return
                answer = predict(session, self.server, self.photos[number])
                self.answered += 1
                if answer.status_code != 200 or not alike(answer.json(), self.quiet[number]):
                    self.wrong.append(f"photo {number}: {answer.status_code} {answer.text[:200]}")


def predict(session: requests.Session, server: StartedServer, photo: bytes) -> requests.Response:
    headers = {"Content-Type": "image/jpeg"}
    return session.post(f"{server.url}/predict", data=photo, headers=headers, timeout=60)


def alike(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """The same answer, but for what the size of a batch does to the last digits."""
    return bool(
        one["label"] == other["label"]
        and one["probabilities"] == pytest.approx(other["probabilities"], abs=0.001)
    )


@pytest.fixture(scope="module", params=list(SETTINGS))
def traffic(request: pytest.FixtureRequest, exported: ModelFolders, photos: list[Path]) -> Iterator[Traffic]:
    contents = [path.read_bytes() for path in photos]
    with (
        running_server(exported, SETTINGS[request.param], "cpu", 30.0) as server,
        requests.Session() as session,
    ):
        quiet = [predict(session, server, photo).json() for photo in contents]
        traffic = Traffic(request.param, server, contents, quiet, set(tree(server)))
        clients = [threading.Thread(target=traffic.run, args=(6 * number,)) for number in range(2)]
        for client in clients:
            client.start()
        try:
            yield traffic
        finally:
            traffic.over.set()
            for client in clients:
                client.join()


@dataclass(frozen=True)
class Reply:
    status: int
    content_type: str
    body: bytes


def ask(server: StartedServer, case: Case, photo: bytes, expected: int) -> Reply:
    address = urlsplit(server.url)
    assert address.hostname is not None
    assert address.port is not None
    if case.raw:
        return ask_raw((address.hostname, address.port), case.body(photo), ends=expected == CLOSED)
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=60)
    connection.putrequest(case.method, case.path)
    body = case.body(photo)
    connection.putheader("Content-Length", str(len(body)))
    if case.content_type is not None:
        connection.putheader("Content-Type", case.content_type)
    if case.encoding is not None:
        connection.putheader("Content-Encoding", case.encoding)
    connection.endheaders(body)
    with connection.getresponse() as response:
        reply = Reply(response.status, response.getheader("content-type", ""), response.read())
    connection.close()
    return reply


def ask_raw(address: tuple[str, int], message: bytes, *, ends: bool) -> Reply:
    """What comes back; ``ends``: the client says that it will send no more."""
    with socket.create_connection(address, timeout=60) as connection:
        with suppress(ConnectionError):  # the server may have refused the rest already
            connection.sendall(message)
            if ends:
                connection.shutdown(socket.SHUT_WR)
        response = http.client.HTTPResponse(connection)
        try:
            response.begin()
        except (http.client.RemoteDisconnected, ConnectionResetError):
            return Reply(CLOSED, "", b"")
        return Reply(response.status, response.getheader("content-type", ""), response.read())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_bad_request_gets_its_status_and_a_reason(traffic: Traffic, case: Case) -> None:
    photo = traffic.photos[0]
    direct = traffic.transport == "direct"
    expected = case.status if direct or case.stock is None else case.stock
    reply = ask(traffic.server, case, photo, expected)
    assert reply.status == expected, reply.body[:300]
    if reply.status == CLOSED or case.method == "HEAD":
        return
    if reply.status == 200:
        if case.like is not None:
            with requests.Session() as session:
                plain = predict(session, traffic.server, case.like(photo))
            assert alike(json.loads(reply.body), plain.json())
        return
    if case.raw and not direct:  # uvicorn's own refusal of what is no HTTP is text
        return
    assert reply.content_type == "application/json"
    detail = json.loads(reply.body)["detail"]
    assert case.reason in detail
    assert len(detail) < 300
    assert LEAK.search(detail) is None


@pytest.mark.parametrize("traffic", ["direct"], indirect=True)
@pytest.mark.parametrize("case", IMAGE_CASES, ids=lambda case: case.name)
def test_a_bad_image_gets_its_status_and_a_reason(traffic: Traffic, case: Case) -> None:
    """By the same decoder, whatever the transport."""
    test_a_bad_request_gets_its_status_and_a_reason(traffic, case)


def test_good_requests_and_processes_were_not_harmed(traffic: Traffic) -> None:
    """After the whole table: every good answer right, the same processes, and no request unfinished."""
    traffic.over.set()
    assert traffic.wrong == []
    assert traffic.answered > 20
    assert set(tree(traffic.server)) == traffic.processes
    assert requests.get(f"{traffic.server.url}/health", timeout=10).status_code == 200
    wait_for(lambda: in_flight(traffic.server.url) == 0)
    assert all(len(line) < 160 for line in traffic.server.log.read_text().splitlines())
