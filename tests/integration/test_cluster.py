"""Senders on the nodes of a Ray cluster: three of them on this machine, with a token."""

from __future__ import annotations

import os
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import psutil
import pytest
import trustme

from litmeter.cli.cluster import cluster_senders, connected
from litmeter.errors import LoadError, UsageError
from litmeter.load.generator import OnProgress
from litmeter.load.stub import running_stub
from litmeter.stats.records import OK
from litmeter.system.temporary import remove_stale_files
from tests.support.asking import wait_for
from tests.support.load import plan
from tests.support.ray_cluster import running_node
from tests.support.servers import free_port

NODES = 3
TOKEN = "0123456789abcdef" * 4
OPEN = plan(96, warmup_s=0.5, min_s=2.5, max_s=2.5, rate_rps=300.0)
JSON: tuple[list[bytes], str, dict[str, str]] = ([b"{}"], "application/json", {})


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """Address of a head with two more nodes."""
    address = f"127.0.0.1:{free_port()}"
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", TOKEN)
        stack.enter_context(running_node(address, head=True))
        for _ in range(NODES - 1):
            stack.enter_context(running_node(address))
        yield address


@contextmanager
def dying_node(cluster: str) -> Iterator[OnProgress]:
    """A fourth node; what is called with the seconds of a load, and kills the node amid it."""
    with running_node(cluster) as process:
        processes = psutil.Process(process.pid)

        def kill(seconds: float) -> None:
            if seconds > 0.5 and processes.is_running():
                for one in [processes, *processes.children(recursive=True)]:
                    one.kill()

        yield kill
    wait_for(lambda: live_nodes(cluster) == NODES)
    remove_stale_files()


def live_nodes(cluster: str) -> int:
    with connected(cluster) as nodes:
        return len(nodes)


def test_each_node_sends_a_third_and_every_request_comes_once(
    cluster: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with running_stub(0.001, 4) as stub, cluster_senders(cluster, *JSON) as group:
        closed, record = (group.run(stub.url, one) for one in (plan(6), OPEN))
        log = stub.log()
    assert len(closed.end) + len(record.end) == len(log)
    assert (closed.status == OK).all()
    assert (record.status == OK).all()
    assert set(closed.user) == set(range(6))
    opened, ended = record.window
    assert abs(record.in_window.sum() / (ended - opened) - 300) < 4 * np.sqrt(300 / (ended - opened))
    parts = np.bincount(record.user // (OPEN.users // NODES), minlength=NODES)
    assert np.abs(parts - len(record.end) / NODES).max() < 4 * np.sqrt(len(record.end) / NODES)
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) == NODES
    assert all(": clock" in line for line in shown)


def test_when_a_node_dies_amid_a_load_the_others_repeat_it(
    cluster: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with (
        dying_node(cluster) as kill,
        running_stub(0.001, 4) as stub,
        cluster_senders(cluster, *JSON) as group,
    ):
        before = len(group.members)
        record = group.run(stub.url, OPEN, on_progress=kill)
        again = group.run(stub.url, OPEN)
    assert before == NODES + 1
    assert len(group.members) == NODES
    out, error = capfd.readouterr()
    *clocks, said = out.splitlines()
    assert (len(clocks), error) == (before, "")  # Ray itself says nothing
    assert said.endswith("this load is void, and repeated by 3 senders")
    for one in (record, again):
        assert (one.status == OK).all()
        assert abs(one.in_window.mean() * len(one.end) / 2.5 - 300) < 4 * np.sqrt(300 / 2.5)


def test_when_a_node_dies_the_load_ends_if_asked(cluster: str) -> None:
    void = r"^sender \S+( \(\d\))?: it or its machine has died; this load is void$"
    with (
        dying_node(cluster) as kill,
        running_stub(0.001, 4) as stub,
        cluster_senders(cluster, *JSON, go_on=False) as group,
        pytest.raises(LoadError, match=void),
    ):
        group.run(stub.url, OPEN, on_progress=kill)


def test_every_node_trusts_the_given_authority(cluster: str) -> None:
    class Answer(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever).start()
        ca = authority.cert_pem.bytes()
        with cluster_senders(cluster, *JSON, ca=ca) as group:
            record = group.run(f"https://127.0.0.1:{server.server_port}", plan(NODES))
        server.shutdown()
    assert set(record.user) == set(range(NODES))
    assert (record.status == OK).all()


class EnoughError(Exception):
    """Raised by a callback."""


def test_a_load_that_was_ended_leaves_nothing_to_the_next(cluster: str) -> None:
    def end(seconds: float) -> None:
        if seconds > 0.2:
            raise EnoughError

    with running_stub(0.3, 8) as slow, running_stub(0.001, 8) as fast:
        with cluster_senders(cluster, *JSON) as group:
            with pytest.raises(EnoughError):
                group.run(slow.url, OPEN, on_progress=end)
            asked = len(slow.log())
            record = group.run(fast.url, OPEN)
        assert len(slow.log()) <= asked + OPEN.users  # those in flight were served to their end
    assert (record.status == OK).all()
    assert np.median(record.end - record.start) < 0.1


def loadtest(cluster: str, url: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    (body := folder / "body.json").write_text("{}")
    command = [sys.executable, "-m", "litmeter.cli.main", "loadtest", "--url", url, "--body", str(body)]
    command += ["--rate", "60", "--seconds", "1", "--cluster", cluster]
    environment = {**os.environ, **environment}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_the_command_loads_from_all_nodes_and_ray_says_nothing(cluster: str, tmp_path: Path) -> None:
    with running_stub(0.001, 4) as stub:
        done = loadtest(cluster, stub.url, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert ["sender" in line for line in lines] == [True] * NODES + [False] * 3  # of the table
    assert "| 60/s " in lines[-1]


@pytest.mark.parametrize(
    "environment",
    [
        {"RAY_AUTH_TOKEN": TOKEN[::-1]},
        {"RAY_AUTH_MODE": "disabled"},
        {"RAY_AUTH_TOKEN": "", "HOME": "/missing"},
    ],
    ids=["wrong", "disabled", "missing"],
)
def test_without_the_token_nobody_joins(cluster: str, tmp_path: Path, environment: dict[str, str]) -> None:
    with running_stub(0.001, 4) as stub:
        done = loadtest(cluster, stub.url, tmp_path, **environment)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    assert f"--cluster {cluster}: " in done.stderr
    assert "token" in done.stderr


def test_a_cluster_elsewhere_that_asks_for_no_token_is_refused(
    cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = f"127.0.0.1:{free_port()}"
    with ExitStack() as stack:
        with monkeypatch.context() as patch:
            patch.setenv("RAY_AUTH_MODE", "disabled")
            stack.enter_context(running_node(address, head=True))
        with connected(address) as nodes:
            assert len(nodes) == 1
        monkeypatch.setattr("litmeter.cli.cluster._is_this_machine", lambda host: False)
        with pytest.raises(UsageError, match="must ask for a token"), connected(address):
            pass
        with connected(cluster) as nodes:
            assert len(nodes) == NODES
