"""Several senders as one: on this machine, and joined over TCP as from other machines."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from litmeter.cli.main import main
from litmeter.errors import LoadError
from litmeter.load import load_generator
from litmeter.load.senders import KEY_VARIABLE, local_senders, remote_senders
from litmeter.load.stub import running_stub
from litmeter.measure.figures import rate_of
from litmeter.stats.records import OK
from tests.integration.asking import wait_for
from tests.support.load import plan
from tests.support.servers import free_port

KEY = "a key that both sides know"
PLAN = plan(6, warmup_s=0.5, min_s=1.5, max_s=1.5)
OPEN = plan(64, warmup_s=0.5, rate_rps=150.0)


@contextmanager
def joining(port: int, key: str = KEY, number: int = 1) -> Iterator[list[subprocess.Popen[str]]]:
    """``litmeter sender --join``, that many times."""
    command = [sys.executable, "-m", "litmeter.cli.main", "sender", "--join", f"127.0.0.1:{port}"]
    senders = [
        subprocess.Popen(
            command,
            env=os.environ | {KEY_VARIABLE: key},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(number)
    ]
    try:
        yield senders
    finally:
        for sender in senders:
            sender.kill()
            sender.communicate()


def test_senders_on_this_machine_send_every_request_once() -> None:
    with running_stub(0.01, 4) as stub, local_senders(3, [b"{}"], "application/json") as group:
        closed, opened = (group.run(stub.url, plan) for plan in (PLAN, OPEN))
        log = stub.log()
    assert len(closed.end) + len(opened.end) == len(log)
    assert (closed.status == OK).all()
    assert set(closed.user) == set(range(6))
    # The same requests by the server's own log, on the same clock.
    begun, ended = closed.window
    logged = ((log[:, 1] > begun) & (log[:, 1] <= ended)).sum()
    assert closed.in_window.sum() == pytest.approx(logged, abs=8)
    assert rate_of(closed).rps == pytest.approx(logged / (ended - begun), rel=0.1)
    came = opened.in_window.sum() / (opened.window[1] - opened.window[0])
    assert abs(came - 150) < 4 * np.sqrt(150 / 2)


def test_strangers_are_refused_and_keep_no_sender_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that connects and says nothing, and one with another key."""
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    monkeypatch.setattr("litmeter.load.senders.AUTHENTICATION_S", 1)
    port, shown = free_port(), list[str]()

    def listen() -> None:
        with remote_senders(("127.0.0.1", port), 1, [b"{}"], "application/json", show=shown.append):
            pass

    listening = threading.Thread(target=listen)
    listening.start()
    wait_for(lambda: len(shown) > 0)
    with socket.create_connection(("127.0.0.1", port)):
        with joining(port, key="another key, also long") as (stranger,):
            output, _ = stranger.communicate(timeout=60)
        with joining(port) as (friend,):
            assert friend.wait(60) == 0
    listening.join(20)
    assert not listening.is_alive()
    assert stranger.returncode == 2
    assert "has another shared key" in output
    assert shown.count("a sender without the shared key was refused") == 2


def test_joined_senders_run_their_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    port, shown = free_port(), list[str]()
    with running_stub(0.01, 4) as stub, joining(port, number=2) as senders:
        with remote_senders(("127.0.0.1", port), 2, [b"{}"], "application/json", show=shown.append) as group:
            record = group.run(stub.url, OPEN)
        log = stub.log()
        outputs = [sender.communicate(timeout=60)[0] for sender in senders]
    assert len(record.end) == len(log)
    assert record.start.max() - record.start.min() < 4
    assert record.cores > 0
    assert sum("clock" in line for line in shown) == 2
    assert [sender.returncode for sender in senders] == [0, 0]
    assert all("load: 75/s" in output for output in outputs)


def test_a_load_that_begins_too_late_is_no_load() -> None:
    """A sender whose machine was busy for too long sends nothing, and says so; the next load is run."""
    with running_stub(0.01, 4) as stub, load_generator([b"{}"], "application/json") as generator:
        with pytest.raises(LoadError, match=r"^it began to send [\d.]+ s too late$"):
            generator.run(stub.url, replace(OPEN, begin_at=time.perf_counter() - OPEN.warmup_s))
        begun = generator.run(stub.url, replace(OPEN, begin_at=time.perf_counter() + 0.2))
        assert len(begun.end) == len(stub.log())


def test_a_sender_that_dies_makes_the_load_void(monkeypatch: pytest.MonkeyPatch) -> None:
    void = r"sender \d \(127\.0\.0\.1\): its connection has ended; this load is void"
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    port = free_port()

    def kill_one(seconds: float) -> None:
        if seconds > 0.2:
            senders[1].kill()

    with (
        running_stub(0.01, 4) as stub,
        joining(port, number=2) as senders,
        remote_senders(("127.0.0.1", port), 2, [b"{}"], "application/json") as group,
        pytest.raises(LoadError, match=void),
    ):
        group.run(stub.url, OPEN, on_progress=kill_one)


def test_the_command_loads_with_several_senders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (body := tmp_path / "body.json").write_text("{}")
    arguments = ["loadtest", "--body-file", str(body), "--users", "4", "--senders", "2"]
    arguments += ["--min-s", "1", "--max-s", "1"]
    with running_stub(0.01, 2) as stub:
        assert main([*arguments, "--url", stub.url]) in (0, 1)
    assert "| 4 " in capsys.readouterr().out
    left = psutil.Process().children(recursive=True)  # other tests' senders run beside this one
    assert [one for one in left if "litmeter.load" in " ".join(one.cmdline())] == []


class EnoughError(Exception):
    """Raised by a callback."""


def test_a_load_that_was_ended_leaves_nothing_to_the_next_of_joined_senders(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    port = free_port()

    def end(seconds: float) -> None:
        raise EnoughError

    with (
        running_stub(0.3, 8) as slow,
        running_stub(0.005, 8) as fast,
        joining(port, number=2) as senders,
    ):
        with remote_senders(("127.0.0.1", port), 2, [b"{}"], "application/json") as group:
            with pytest.raises(EnoughError):
                group.run(slow.url, PLAN, on_progress=end)
            record = group.run(fast.url, PLAN)
        assert (record.status == OK).all()
        assert np.median(record.end - record.start) < 0.1
        assert [sender.wait(60) for sender in senders] == [0, 0]
