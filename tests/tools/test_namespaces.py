"""A Ray cluster whose nodes are in network namespaces, as on machines; it needs root and ``ip``."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import pytest
import requests

from litmeter.cli.cluster import cluster_senders
from litmeter.stats.records import OK
from litmeter.system.processes import process_group
from tests.support.load import plan
from tests.support.ray_cluster import running_node
from tests.support.servers import free_port

MACHINES = 3
BRIDGE, HERE = "sbtest", "10.213.57.1"
TOKEN = "0123456789abcdef" * 4
RATE_RPS = 600.0
SERVER = """
import sys, uvloop
from litmeter.load.stub import Stub, serve
uvloop.run(serve(Stub(0.0005, 4, 200, False, 0.0, False), sys.argv[1]))
"""


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


@contextmanager
def namespaces() -> Iterator[dict[str, str]]:
    """Namespaces and the address of each, and a bridge with HERE between them."""
    names = {f"{BRIDGE}{number}": f"10.213.57.{10 + number}" for number in range(1, MACHINES)}
    with ExitStack() as stack:
        ip("link", "add", BRIDGE, "type", "bridge")
        stack.callback(ip, "link", "delete", BRIDGE)
        ip("address", "add", f"{HERE}/24", "dev", BRIDGE)
        ip("link", "set", BRIDGE, "up")
        for name, host in names.items():
            ip("netns", "add", name)
            stack.callback(ip, "netns", "delete", name)
            ip("link", "add", f"{name}a", "type", "veth", "peer", "name", f"{name}b")
            ip("link", "set", f"{name}a", "master", BRIDGE, "up")
            ip("link", "set", f"{name}b", "netns", name)
            ip("-n", name, "address", "add", f"{host}/24", "dev", f"{name}b")
            ip("-n", name, "link", "set", f"{name}b", "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield names


def test_three_machines_reach_the_sum_of_their_rates(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert shutil.which("ip") is not None, "this test runs ip: `apt-get install iproute2` (Debian, Ubuntu)"
    assert os.geteuid() == 0, "this test makes network namespaces, which needs root"
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    cluster = f"{HERE}:{free_port()}"
    with ExitStack() as stack:
        names = stack.enter_context(namespaces())
        server = stack.enter_context(
            process_group([sys.executable, "-c", SERVER, HERE], stdout=subprocess.PIPE)
        )
        assert server.stdout is not None
        url = f"http://{HERE}:{server.stdout.readline().decode().strip()}"
        stack.enter_context(running_node(cluster, head=True, own=HERE))
        for name, host in names.items():
            prefix = ("ip", "netns", "exec", name)
            stack.enter_context(running_node(cluster, own=host, prefix=prefix))
        group = stack.enter_context(cluster_senders(cluster, [b"{}"], "application/json", {}))
        record = group.run(url, plan(96, warmup_s=0.5, min_s=3.0, max_s=3.0, rate_rps=RATE_RPS))
        log = requests.get(f"{url}/log", timeout=10).json()
    assert (record.status == OK).all()
    assert len(record.end) == len(log)  # every request once
    opened, closed = record.window
    came = record.in_window.sum() / (closed - opened)
    assert abs(came - RATE_RPS) < 4 * np.sqrt(RATE_RPS / (closed - opened))
    shown = capsys.readouterr().out.splitlines()
    assert all(any(f"sender {host}: clock" in line for line in shown) for host in [HERE, *names.values()])
