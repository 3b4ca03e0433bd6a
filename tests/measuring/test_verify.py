"""The test of the instrument: it agrees where it should, and says so where it does not.

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

import numpy as np
import psutil
import pytest

from litmeter.cli.main import main
from litmeter.errors import VerifyError
from litmeter.selftest import run, second_tool
from litmeter.selftest.checks import against_log
from litmeter.selftest.open_loop import (
    KOLMOGOROV_99,
    OpenCase,
    check_arrivals,
    check_stop,
    exponential_distance,
    waits,
)
from litmeter.selftest.run import Case, check_second_tool, load
from litmeter.selftest.stub import running_stub
from litmeter.system.progress import bar

CASE = Case(0.02, 1, 2, 0.5)
WRK_OUTPUT = """\
Running 2s test @ http://127.0.0.1:38735
  1 threads and 4 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency    20.58ms  283.84us  22.37ms   77.84%
    Req/Sec   193.95      6.93   202.00     90.00%
  388 requests in 2.01s, 20.08KB read
Requests/sec:    193.23
Transfer/sec:     10.00KB
"""
HEY_OUTPUT = """\
Summary:
  Total:\t2.0159 secs
  Requests/sec:\t192.4656

Status code distribution:
  [200]\t388 responses
"""


def fake_tool(folder: Path, name: str, output: str) -> Path:
    (folder / f"{name}.txt").write_text(output)
    tool = folder / name
    tool.write_text(f"#!/bin/sh\nexec /bin/cat '{folder}/{name}.txt'\n")
    tool.chmod(0o755)
    return tool


def test_a_log_that_differs_by_a_tenth_does_not_pass() -> None:
    with running_stub(CASE.service_s, CASE.parallel) as stub:
        level = load(stub.url, CASE)
        log = stub.log()
    requests, p50, _ = against_log("real", level, log)
    assert requests.passed
    assert requests.measured == len(log) > 20
    assert p50.expected == pytest.approx(40, rel=0.5)  # milliseconds: two users, one place
    itself = np.stack([level.start, level.end], axis=1)
    assert [check.error for check in against_log("itself", level, itself)] == [0, 0, 0]
    shifted = np.stack([level.start, level.end + 0.1 * (level.end - level.start)], axis=1)
    assert [check.passed for check in against_log("shifted", level, shifted)] == [True, False, False]


def test_a_request_missing_from_the_servers_log_does_not_pass() -> None:
    with running_stub(CASE.service_s, CASE.parallel) as stub:
        level = load(stub.url, CASE)
        log = stub.log()
    [check] = against_log("short", level, log[1:])
    assert not check.passed
    [check] = against_log("empty", level, log[:0])
    assert not check.passed


def test_the_stub_keeps_its_places_and_its_order() -> None:
    with running_stub(0.02, 2) as stub:
        load(stub.url, Case(0.02, 2, 6, 0.5))
        log = stub.log()
    assert np.all(np.diff(log[:, 1]) >= 0)
    assert np.all(log[:, 1] - log[:, 0] > 0.018)  # a timer may be a millisecond early
    assert np.mean(log[2:, 1] - log[:-2, 1]) > 0.019  # two places: every other departure


def test_without_a_second_tool_the_other_checks_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(run, "CASES", [Case(0.02, 1, 2, 0.5, queueing=True)])
    monkeypatch.setattr(run, "OPEN_LOOP_CHECKS", [])
    assert main(["verify"]) == 1
    captured = capsys.readouterr()
    [line] = captured.err.splitlines()
    assert "neither wrk nor hey is installed; `apt-get install wrk`" in line
    assert "| 20 ms x 1, 2 users: p50, server's log |" in captured.out
    written = json.loads((tmp_path / "metrics/verify.json").read_text())
    assert written["machine"] is None
    assert written["passed"] is False
    *made, missing = written["checks"]
    assert [check["unit"] for check in made] == ["requests", "ms", "ms", "req/s"]
    assert all(check["measured"] is not None for check in made)
    assert missing == {
        "name": "rate, second tool",
        "expected": None,
        "measured": None,
        "unit": "req/s",
        "error": None,
        "bound": 0.05,
        "passed": False,
    }


def test_a_second_tool_that_disagrees_does_not_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "ROUNDS", 1)
    tool = fake_tool(tmp_path, "wrk", WRK_OUTPUT)
    with bar(1, "test", "run") as progress:
        check = check_second_tool(CASE, str(tool), progress)
    assert check.expected == 193.23
    assert check.measured is not None
    assert check.measured < 60  # what one place of 20 ms can do, and some
    assert not check.passed


@pytest.mark.parametrize(
    ("name", "output", "rate"), [("wrk", WRK_OUTPUT, 193.23), ("hey", HEY_OUTPUT, 192.4656)]
)
def test_the_output_of_either_tool_is_understood(name: str, output: str, rate: float) -> None:
    assert second_tool.read_rate(name, 0, output) == rate


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ("unable to connect to 127.0.0.1:9 Connection refused", "failed .*refused"),
        (WRK_OUTPUT + "  Non-2xx or 3xx responses: 388\n", "Non-2xx or 3xx responses: 388"),
        (WRK_OUTPUT + "  Socket errors: connect 0, read 0, write 0, timeout 3\n", "timeout 3"),
        (HEY_OUTPUT + "  [503]\t12 responses\n", "503"),
        (HEY_OUTPUT + "\nError distribution:\n  [3]\tPost: EOF\n", "Error distribution"),
    ],
)
def test_a_second_tool_with_failures_has_no_rate(output: str, reason: str) -> None:
    with pytest.raises(VerifyError, match=reason):
        second_tool.read_rate("tool", 0, output)


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
    longest, mean = check_stop(OpenCase(0.001, 8, 100.0, 2.4))
    for check in (longest, mean):
        assert check.expected is not None
        assert check.measured is not None
        assert check.measured > 0.95 * check.expected
    assert longest.expected == pytest.approx(1000, rel=0.2)
    assert mean.expected == pytest.approx(500, rel=0.3)


def test_arrivals_are_poisson_whatever_the_machine_does() -> None:
    assert [check.passed for check in check_arrivals(OpenCase(0.001, 8, 200.0, 1.5))] == [True, True]


def test_regular_arrivals_are_told_from_poisson() -> None:
    regular = np.full(400, 0.01)
    assert exponential_distance(regular, 100.0) > KOLMOGOROV_99 / np.sqrt(len(regular))
    poisson = np.random.default_rng(0).exponential(0.01, 400)
    assert exponential_distance(poisson, 100.0) < KOLMOGOROV_99 / np.sqrt(len(poisson))
    assert exponential_distance(poisson, 130.0) > KOLMOGOROV_99 / np.sqrt(len(poisson))


def test_waits_in_a_queue_of_known_service_time() -> None:
    arrived = np.array([0.0, 0.1, 0.2, 5.0])
    assert waits(arrived, 1.0, 1) == pytest.approx([1.0, 1.9, 2.8, 1.0])
    assert waits(arrived, 1.0, 2) == pytest.approx([1.0, 1.0, 1.8, 1.0])
