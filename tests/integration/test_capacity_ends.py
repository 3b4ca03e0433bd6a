"""What ends a search for a capacity, other than having found it."""

from __future__ import annotations

import csv
import os
import signal
import time
from pathlib import Path

import pytest

from litmeter.cli.main import main
from litmeter.errors import LoadError, ServerError
from litmeter.load import load_generator
from litmeter.load.stub import running_stub
from litmeter.measure.capacity import measure_capacity
from litmeter.measure.target import Target
from tests.support.capacity import OBJECTIVE, capacity_of


def test_a_service_that_takes_longer_than_the_objective_is_said_soon() -> None:
    started = time.monotonic()
    with running_stub(0.15, 2) as stub:
        found = capacity_of(stub).metrics
    assert time.monotonic() - started < 30
    assert (found.status, found.capacity_rps) == ("slo_unreachable", None)


def test_the_time_is_kept_though_the_server_hangs() -> None:
    with running_stub(0.01, 2) as stub:

        def hang() -> None:
            if time.monotonic() - started > 5:
                os.kill(stub.pid, signal.SIGSTOP)

        started = time.monotonic()
        objective = OBJECTIVE.model_copy(update={"max_s": 10.0, "slo_ms": 50.0})
        with load_generator([b"{}"], "application/json") as generator:
            result = measure_capacity(generator, stub.url, objective, 30.0, "stub", check=hang)
        assert time.monotonic() - started < 20
    assert result.metrics.status == "unresolved"
    assert "after 10 s" in result.metrics.reason


def test_a_service_too_slow_to_see_enough_requests_is_said() -> None:
    with running_stub(0.8, 1) as stub:
        found = capacity_of(stub, slo_ms=4000.0, max_s=40.0).metrics
    assert found.status == "unresolved", found
    assert "requests were due in a probe; that needs a longer objective.max_s" in found.reason


def test_a_server_that_refuses_everything_is_an_error() -> None:
    with running_stub(0.01, 2, answer_status=503) as stub:
        with pytest.raises(LoadError, match="answered no request well: status 503: "):
            capacity_of(stub)
        with pytest.raises(ServerError, match="answered the first request"):
            Target(stub.url, [b"{}"], "application/json").check_first_request(5.0)


def test_the_command_prints_writes_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (body := tmp_path / "body.json").write_text("{}")
    out, picture = tmp_path / "probes.csv", tmp_path / "capacity.png"
    arguments = ["capacity", "--body-file", str(body), "--out", str(out), "--picture", str(picture)]
    arguments += ["--slo-ms", "50", "--probe-requests", "200", "--max-s", "25"]
    with running_stub(0.01, 2) as stub:
        status = main([*arguments, "--url", stub.url])
    text = capsys.readouterr().out
    with out.open() as file:
        rows = list(csv.DictReader(file))
    assert status == 1, text  # the time is too short for its tolerance
    assert len(rows) >= 1
    assert f"| {len(rows)} " in text
    assert "after 25 s" in " ".join(text.split())  # wherever a line ends
    assert picture.read_bytes().startswith(b"\x89PNG")
