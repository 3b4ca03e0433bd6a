"""What ends a search for a capacity, other than its time."""

from __future__ import annotations

import csv
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from litmeter.cli.main import main
from litmeter.errors import LoadError, ServerError
from litmeter.load.first_request import check_first_request
from litmeter.load.stub import running_stub
from tests.support.capacity import capacity_of


def test_an_objective_that_no_rate_decides_is_found_soon() -> None:
    with running_stub(0.15, 2) as stub:
        started = time.monotonic()
        slow = capacity_of(stub).metrics
        assert time.monotonic() - started < 30
    with running_stub(0.01, 2) as stub:
        started = time.monotonic()
        fast = capacity_of(stub, slo_ms=5000.0).metrics
        assert time.monotonic() - started < 40  # of an otherwise idle machine 30
    assert (slow.status, slow.capacity_rps) == ("slo_unreachable", None)
    assert (fast.status, fast.capacity_rps) == ("above_range", None)
    assert fast.low_rps == pytest.approx(200, rel=0.1)


def test_the_time_is_kept_though_the_server_hangs() -> None:
    with running_stub(0.01, 2) as stub:
        timer = threading.Timer(7.0, os.kill, (stub.pid, signal.SIGSTOP))
        timer.start()
        started = time.monotonic()
        found = capacity_of(stub, slo_ms=50.0, max_s=20.0).metrics
        timer.cancel()
        assert time.monotonic() - started < 30
    assert found.status == "unresolved"


def test_a_search_that_is_too_short_says_so() -> None:
    with running_stub(0.01, 2) as stub:
        found = capacity_of(stub, slo_ms=50.0, max_s=12.0).metrics
    assert (found.status, found.low_rps, found.high_rps) == ("unresolved", None, None)
    assert "in 12 s (objective.max_s) are too few" in found.reason


def test_a_server_that_refuses_everything_is_an_error() -> None:
    with running_stub(0.01, 2, answer_status=503) as stub:
        with pytest.raises(LoadError, match=r"answered no request well: .*status 503: "):
            capacity_of(stub)
        with pytest.raises(ServerError, match="answered the first request"):
            check_first_request(stub.url, [b"{}"], "application/json", {}, 5.0)


def test_the_command_prints_writes_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (body := tmp_path / "body.json").write_text("{}")
    out, picture = tmp_path / "probes.csv", tmp_path / "capacity.png"
    arguments = ["capacity", "--body", str(body), "--out", str(out), "--picture", str(picture)]
    with running_stub(0.01, 2) as stub:
        status = main([*arguments, "--slo-ms", "50", "--seconds", "12", "--url", stub.url])
    text = " ".join(capsys.readouterr().out.split())  # wherever a line ends
    with out.open() as file:
        rows = list(csv.DictReader(file))
    assert status == 1, text
    for row in rows:
        load = f"{float(row['offered_rps']):.1f}/s" if row["offered_rps"] else f"{row['users']} users"
        assert f"| {load}" in text
    assert "in 12 s (--seconds) are too few" in text
    assert picture.read_bytes().startswith(b"\x89PNG")
