"""Several senders on this machine as one."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from litmeter.cli.main import main
from litmeter.errors import LoadError
from litmeter.load import load_generator
from litmeter.load.senders import local_senders
from litmeter.load.stub import running_stub
from litmeter.measure.figures import rate_of
from litmeter.stats.records import OK
from tests.support.load import plan

PLAN = plan(6, warmup_s=0.5, min_s=1.5, max_s=1.5)
OPEN = plan(64, warmup_s=0.5, rate_rps=150.0)


def test_senders_on_this_machine_send_every_request_once() -> None:
    with running_stub(0.01, 4) as stub, local_senders(3, [b"{}"], "application/json") as group:
        closed, opened = (group.run(stub.url, plan) for plan in (replace(PLAN, keep_answers=True), OPEN))
        log = stub.log()
    assert len(closed.end) + len(opened.end) == len(log)
    assert (closed.status == OK).all()
    assert set(closed.user) == set(range(6))
    assert [len(answer) for answer in closed.answers] == closed.size.tolist()
    assert not opened.answers
    # The same requests by the server's own log, on the same clock.
    begun, ended = closed.window
    logged = ((log[:, 1] > begun) & (log[:, 1] <= ended)).sum()
    assert closed.in_window.sum() == pytest.approx(logged, abs=8)
    assert rate_of(closed).rps == pytest.approx(logged / (ended - begun), rel=0.1)
    came = opened.in_window.sum() / (opened.window[1] - opened.window[0])
    assert abs(came - 150) < 4 * np.sqrt(150 / 2)


def test_a_load_that_begins_too_late_is_no_load() -> None:
    """A sender whose machine was busy for too long sends nothing, and says so; the next load is run."""
    with running_stub(0.01, 4) as stub, load_generator([b"{}"], "application/json") as generator:
        with pytest.raises(LoadError, match=r"^it began to send [\d.]+ s too late$"):
            generator.run(stub.url, replace(OPEN, begin_at=time.perf_counter() - OPEN.warmup_s))
        begun = generator.run(stub.url, replace(OPEN, begin_at=time.perf_counter() + 0.2))
        assert len(begun.end) == len(stub.log())


def test_a_sender_that_dies_makes_the_load_void() -> None:
    def kill_one(seconds: float) -> None:
        if seconds > 0.2:
            os.kill(dying.pid, signal.SIGKILL)

    with running_stub(0.01, 4) as stub, local_senders(2, [b"{}"], "application/json") as group:
        dying = group.members[1].sender
        with pytest.raises(LoadError, match=r"sender 2 on this machine: .* died .*; this load is void"):
            group.run(stub.url, OPEN, on_progress=kill_one)


def test_the_command_loads_with_several_senders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (body := tmp_path / "body.json").write_text("{}")
    arguments = ["loadtest", "--body", str(body), "--users", "4", "--senders", "2"]
    arguments += ["--seconds", "1"]
    with running_stub(0.01, 2) as stub:
        assert main([*arguments, "--url", stub.url]) in (0, 1)
    assert "| 4 " in capsys.readouterr().out
    left = psutil.process_iter(["ppid", "cmdline"])  # other tests' senders run beside this one
    own = [one.info["cmdline"] for one in left if one.info["ppid"] == os.getpid()]
    assert [words for words in own if "litmeter.load" in " ".join(words or [])] == []
