"""The capacity of real servers of known service times, and what makes a search end."""

from __future__ import annotations

import csv
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from servebench.benchmark.capacity import measure_capacity, missed_by_lateness
from servebench.benchmark.capacity_rows import CapacityResult, sentence
from servebench.benchmark.target import Target
from servebench.cli.main import main
from servebench.errors import LoadError, ServerError
from servebench.loadgen import load_generator
from servebench.params import ObjectiveSettings
from servebench.selftest.stub import RunningStub, running_stub
from servebench.stats.records import OK, LoadRecord

OBJECTIVE = ObjectiveSettings(
    slo_ms=100.0,
    miss=0.05,
    configurations=("any",),
    tolerance=0.15,
    probe_requests=300,
    max_s=60.0,
    seed=1,
)


def capacity_of(stub: RunningStub, **changes: float) -> CapacityResult:
    objective = OBJECTIVE.model_copy(update=changes)
    with load_generator([b"{}"], "application/json") as generator:
        return measure_capacity(generator, stub.url, objective, 10.0, "stub")


def test_a_known_server_has_its_known_capacity() -> None:
    """Two slots of 5 ms: at 313 requests/s 5% of them take more than 20 ms, by a long simulation.

    A machine that is busy with others for a while voids probes; it gets three chances.
    """
    with running_stub(0.005, 2) as stub:
        for _ in range(3):
            result = capacity_of(stub, slo_ms=20.0, max_s=300.0)
            found = result.metrics
            if "void" not in (found.reason or ""):
                break
    assert found.status == "resolved", found
    assert found.capacity_rps == pytest.approx(313.0, rel=0.2)
    assert found.low_rps < found.capacity_rps < found.high_rps < found.peak_rps * 1.1
    assert found.peak_rps == pytest.approx(400.0, rel=0.1)
    assert found.probes + found.void == len(result.rows)
    assert any(row.phase == "confirm" for row in result.rows) == (found.confirmed is not None)
    assert result.curve is not None
    assert "with 95% of them within 20 ms" in sentence(found)


def test_a_service_that_takes_longer_than_the_objective_is_said_soon() -> None:
    started = time.monotonic()
    with running_stub(0.15, 2) as stub:
        found = capacity_of(stub).metrics
    assert time.monotonic() - started < 30
    assert (found.status, found.capacity_rps) == ("slo_unreachable", None)
    assert sentence(found).startswith("has no rate at which requests come with 95% of them within 100 ms: ")


def test_a_server_that_is_too_slow_for_many_users_is_unreachable_too() -> None:
    """One user waits 0.9 s; of eight, most would wait longer than anybody does (2 s)."""
    with running_stub(0.9, 1) as stub:
        found = capacity_of(stub).metrics
    assert found.status == "slo_unreachable", found


def test_an_objective_that_every_rate_keeps_is_above_the_range() -> None:
    with running_stub(0.002, 1) as stub:
        found = capacity_of(stub, slo_ms=5000.0).metrics
    assert found.status == "above_range", found
    assert found.capacity_rps is None
    assert found.low_rps is not None
    assert found.peak_rps is not None
    assert found.low_rps > 0.9 * found.peak_rps


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
    arguments += ["--slo-ms", "50", "--probe-requests", "200", "--max-s", "15"]
    with running_stub(0.01, 2) as stub:
        status = main([*arguments, "--url", stub.url])
    text = capsys.readouterr().out
    with out.open() as file:
        rows = list(csv.DictReader(file))
    assert status == 1, text  # the time is too short for its tolerance
    assert len(rows) >= 1
    assert f"| {len(rows)} " in text
    assert "after 15 s" in text
    assert picture.read_bytes().startswith(b"\x89PNG")


def record(sent_late_s: float, users: int) -> LoadRecord:
    """Ten requests, each due 10 ms after the last, which take 40 ms from when they are sent."""
    due = np.arange(10) * 0.01 + 1.0
    sent = due + sent_late_s
    zeros = np.zeros(10, dtype=np.int64)
    return LoadRecord(
        users=users,
        rate_rps=100.0,
        window_edges=np.array([0.0, 1.0, 1.05, 2.0]),
        user=zeros,
        start=due,
        sent=sent,
        end=sent + 0.04,
        status=np.full(10, OK),
        code=np.full(10, 200),
        size=zeros,
        body=zeros,
        answer=np.array([b""] * 10),
    )


def test_lateness_counts_where_it_alone_makes_a_request_miss() -> None:
    assert missed_by_lateness(record(0.0, users=100), slo_ms=50.0) == 0
    assert missed_by_lateness(record(0.02, users=100), slo_ms=50.0) == 1.0
    assert missed_by_lateness(record(0.02, users=100), slo_ms=30.0) == 0  # they miss it anyway
    # With one connection, those after the first three were due while it was busy: they waited for the server.
    assert missed_by_lateness(record(0.02, users=1), slo_ms=50.0) == pytest.approx(0.3)
