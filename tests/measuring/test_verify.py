"""`litmeter verify`, its stub server and wrk, for real.

No limit on timing is asserted here, as other load on the machine would break it: that is what
`litmeter verify` itself is for.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from litmeter import selftest
from litmeter.errors import VerifyError
from litmeter.load.stub import Stub
from litmeter.selftest import CLOSED, POISSON, STOP, WRK, Case, check, main, rate_by_wrk, run_case

WRK_OUTPUT = """\
Running 2s test @ http://127.0.0.1:38735
  1 threads and 4 connections
  388 requests in 2.01s, 20.08KB read
"""
RATE = "Requests/sec:    193.23\n"


def fake_wrk(folder: Path, output: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a wrk that prints ``output`` first on the PATH."""
    (folder / "output").write_text(output)
    tool = folder / "wrk"
    tool.write_text(f"#!/bin/sh\nexec /bin/cat '{folder}/output'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


def test_without_wrk_the_other_checks_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(VerifyError, match="apt-get install wrk"):
        main(
            [Case(Stub(0.02, 1), 0.5, WRK, users=2, wrk_rounds=1), Case(Stub(0.02, 1), 0.5, CLOSED, users=2)]
        )
    assert "| 20 ms x 1, 2 users: p50, server's log |" in capsys.readouterr().out
    written = json.loads((tmp_path / "metrics/verify.json").read_text())
    assert written["machine"] is None
    assert written["passed"] is False
    missing, *made = written["checks"]
    assert (missing["expected"], missing["error"], missing["passed"]) == (None, None, False)
    assert [one["unit"] for one in made] == ["requests", "ms", "ms"]
    requests, p50, _ = made
    assert requests["measured"] == requests["expected"] > 20
    assert p50["expected"] == pytest.approx(40, rel=0.5)  # milliseconds: two users, one place


def test_a_wrk_that_disagrees_does_not_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_wrk(tmp_path, WRK_OUTPUT + RATE, monkeypatch)
    run = run_case(case := Case(Stub(0.02, 1), 0.5, WRK, users=2, wrk_rounds=1))
    found = check(case, WRK[0], run)
    assert found.expected == 193.23
    assert found.measured < 60  # what one place of 20 ms can do, and some
    assert not found.passed


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ("unable to connect to 127.0.0.1:9 Connection refused", "failed .*refused"),
        (WRK_OUTPUT + "  Non-2xx or 3xx responses: 388\n" + RATE, "Non-2xx or 3xx responses: 388"),
        (WRK_OUTPUT + "  Socket errors: connect 0, read 0, write 0, timeout 3\n" + RATE, "timeout 3"),
    ],
)
def test_a_wrk_with_failures_has_no_rate(
    output: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_wrk(tmp_path, output, monkeypatch)
    with pytest.raises(VerifyError, match=reason):
        rate_by_wrk("http://127.0.0.1:9", b"{}", 1, 1)


def test_sigterm_stops_everything_that_was_started(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "litmeter.cli.main", "verify"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL) as verify:
        process = psutil.Process(verify.pid)
        started: list[psutil.Process] = []
        while len(started) < 4:  # the stub and the load generator, each with its guard
            assert verify.poll() is None
            started = process.children(recursive=True)
            time.sleep(0.05)
        verify.send_signal(signal.SIGTERM)
        assert verify.wait(timeout=60) == 128 + signal.SIGTERM
    _, alive = psutil.wait_procs(started, timeout=60)
    assert alive == []
    assert not (tmp_path / "metrics/verify.json").exists()


def test_a_server_that_stops_for_a_second_shows_in_all_waits() -> None:
    """However slow this machine is, they are no shorter than until the server went on."""
    case = Case(Stub(0.001, 8), 2.4, STOP, rate_rps=100.0, stop_s=1.0)
    run = run_case(case)
    longest, mean = (check(case, quantity, run) for quantity in STOP)
    for one in (longest, mean):
        assert one.measured > 0.95 * one.expected
    assert longest.expected == pytest.approx(1000, rel=0.2)
    assert mean.expected == pytest.approx(500, rel=0.3)


def test_arrivals_are_poisson_whatever_the_machine_does() -> None:
    [case] = [case for case in selftest.CASES if case.quantities is POISSON]
    run = run_case(case)
    assert len(run.gaps) >= selftest.GAPS
    assert [check(case, quantity, run).passed for quantity in POISSON] == [True, True]
