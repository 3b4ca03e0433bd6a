"""Senders in network namespaces of their own, as on three machines; it needs root and ``ip``."""

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

from litmeter.load.senders import KEY_VARIABLE, remote_senders
from litmeter.stats.records import OK
from tests.support.load import plan
from tests.support.servers import free_port

SENDERS = 3
BRIDGE, HERE = "sbtest", "10.213.57.1"
KEY = "a key that all machines know"
RATE_RPS = 600.0
SERVER = """
import sys, uvloop
from litmeter.load.stub import Stub, serve
uvloop.run(serve(Stub(0.0005, 4, 200, False, 0.0, False), sys.argv[1]))
"""


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


@contextmanager
def namespaces() -> Iterator[list[str]]:
    """Namespaces, each with an address of its own, and a bridge with HERE between them."""
    names = [f"{BRIDGE}{number}" for number in range(SENDERS)]
    with ExitStack() as stack:
        ip("link", "add", BRIDGE, "type", "bridge")
        stack.callback(ip, "link", "delete", BRIDGE)
        ip("address", "add", f"{HERE}/24", "dev", BRIDGE)
        ip("link", "set", BRIDGE, "up")
        for number, name in enumerate(names):
            ip("netns", "add", name)
            stack.callback(ip, "netns", "delete", name)
            ip("link", "add", f"{name}a", "type", "veth", "peer", "name", f"{name}b")
            ip("link", "set", f"{name}a", "master", BRIDGE, "up")
            ip("link", "set", f"{name}b", "netns", name)
            ip("-n", name, "address", "add", f"10.213.57.{10 + number}/24", "dev", f"{name}b")
            ip("-n", name, "link", "set", f"{name}b", "up")
        yield names


@contextmanager
def process(*command: str) -> Iterator[subprocess.Popen[str]]:
    started = subprocess.Popen(
        command, env=os.environ | {KEY_VARIABLE: KEY}, stdout=subprocess.PIPE, text=True
    )
    try:
        yield started
    finally:
        started.kill()
        started.communicate()


def test_three_machines_reach_the_sum_of_their_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shutil.which("ip") is not None, "this test runs ip: `apt-get install iproute2` (Debian, Ubuntu)"
    assert os.geteuid() == 0, "this test makes network namespaces, which needs root"
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    port, shown = free_port(), list[str]()
    with ExitStack() as stack:
        names = stack.enter_context(namespaces())
        server = stack.enter_context(process(sys.executable, "-c", SERVER, HERE))
        assert server.stdout is not None
        url = f"http://{HERE}:{server.stdout.readline().strip()}"
        for name in names:
            command = ("-m", "litmeter.cli.main", "sender", "--join", f"{HERE}:{port}")
            stack.enter_context(process("ip", "netns", "exec", name, sys.executable, *command))
        group = stack.enter_context(
            remote_senders((HERE, port), SENDERS, [b"{}"], "application/json", show=shown.append)
        )
        record = group.run(url, plan(96, warmup_s=0.5, min_s=3.0, max_s=3.0, rate_rps=RATE_RPS))
        log = requests.get(f"{url}/log", timeout=10).json()
    assert (record.status == OK).all()
    assert len(record.end) == len(log)  # every request once
    opened, closed = record.window
    came = record.in_window.sum() / (closed - opened)
    assert abs(came - RATE_RPS) < 4 * np.sqrt(RATE_RPS / (closed - opened))
    hosts = {f"10.213.57.{10 + number}" for number in range(SENDERS)}
    assert all(any(f"({host}): clock" in line for line in shown) for host in hosts)
