"""Requests to a server that is measured go straight to it, whatever proxy the environment names."""

from __future__ import annotations

import threading
from http.server import HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from litmeter.classifier.server.client import Client
from litmeter.cli.main import main
from litmeter.errors import ServerError
from litmeter.kinds.classifier import Classifier
from litmeter.kinds.server import Server
from litmeter.load.stub import running_stub
from litmeter.measure.subjects import Served
from litmeter.paths import MODEL
from tests.support.servers import free_port
from tests.support.stub_server import Handler

METRICS = b'# TYPE litmeter_process gauge\nlitmeter_process{pid="7",role="http"} 1.0\n'


class Metrics(Handler):
    def do_GET(self) -> None:
        self.answer(200, METRICS)


@pytest.fixture(autouse=True)
def dead_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy that refuses connections, by all names."""
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")


def test_a_load_and_its_first_request(tmp_path: Path) -> None:
    (body := tmp_path / "body.json").write_text("{}")
    arguments = ["--body", str(body), "--users=1", "--requests", "1", "--seconds", "1"]
    with running_stub(0.01) as stub:
        assert main(["loadtest", "--url", stub.url, *arguments]) in {0, 1}  # valid or not
        assert len(stub.log()) > 3


def test_a_prediction() -> None:
    with running_stub(0.01) as stub, pytest.raises(ServerError, match=r'its answer is .*"label": "cat"'):
        Client(stub.url).predict(b"")  # which has no probability


def test_the_metrics_of_a_benchmarked_server() -> None:
    with HTTPServer(("127.0.0.1", 0), Metrics) as server, running_stub(0.01) as stub:
        metrics = f"http://127.0.0.1:{server.server_address[1]}/metrics"
        threading.Thread(target=server.handle_request).start()
        sender: Any = SimpleNamespace(pid=0)
        served = Served("any", Classifier(), sender, MODEL, "cpu", 1.0)
        served.server = Server(stub.url, metrics)
        assert served.scrape().roles == {7: "http"}
