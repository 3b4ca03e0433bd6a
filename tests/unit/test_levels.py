"""One level: every request counted, its rate and latencies, and whether they are valid."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from litmeter.benchmark.levels import level_row, raw_samples
from litmeter.benchmark.telemetry import Usage
from litmeter.stats.records import FAILED, OK, REQUEST_FIELDS, TIMED_OUT, LoadRecord

IDLE = Usage(cpu_percent=50.0, server_cores=0.9, client_cores=0.1)


def steady_record(users: int = 4, latency_s: float = 0.1, until_s: float = 60.0) -> LoadRecord:
    """``users`` users, each answered every ``latency_s``, one after another."""
    edges = np.arange(0.0, until_s, latency_s)
    start = np.concatenate([edges + latency_s * user / users for user in range(users)])
    user = np.repeat(np.arange(users), len(edges))
    order = np.argsort(start)
    count = len(start)
    return LoadRecord(
        users=users,
        rate_rps=None,
        window_edges=np.linspace(10.01, 50.01, 4),
        user=user[order],
        start=start[order],
        sent=start[order],
        end=start[order] + latency_s,
        status=np.full(count, OK),
        code=np.full(count, 200),
        size=np.full(count, 80),
        body=np.zeros(count, dtype=np.int64),
        answer=np.full(count, b"{}"),
    )


def with_status(record: LoadRecord, **positions: int) -> LoadRecord:
    status = record.status.copy()
    for position, value in positions.items():
        status[int(position[1:])] = value
    return dataclasses.replace(record, status=status)


def test_a_steady_level_is_valid() -> None:
    row = level_row(steady_record(), IDLE)
    assert row.throughput_rps == pytest.approx(40.0)
    assert row.p50_ms == row.p95_ms == row.p99_ms == pytest.approx(100.0)
    assert row.samples == 1600
    assert row.valid
    assert row.invalid_reason == ""
    assert row.gpu_percent is None


def test_an_open_loops_percentiles_claim_no_interval() -> None:
    row = level_row(dataclasses.replace(steady_record(), rate_rps=40.0), IDLE)
    assert (row.p95_ms is None, row.p95_low_ms, row.p95_high_ms) == (False, None, None)
    assert level_row(steady_record(), IDLE).p95_low_ms is not None


def test_every_request_is_counted_and_failures_invalidate_the_level() -> None:
    record = with_status(steady_record(), p0=FAILED, p900=FAILED, p901=TIMED_OUT)
    record.code[[0, 900, 901]] = 503, 0, 0
    row = level_row(record, IDLE)
    assert row.sent == row.ok + row.failed + row.timed_out == len(record.start)
    assert (row.failed, row.timed_out) == (2, 1)
    assert not row.valid
    assert (
        row.invalid_reason == f"2 failed and 1 timed out of {len(record.start)} (status 503: 1, no answer: 1)"
    )


def test_failed_requests_add_no_throughput() -> None:
    record = steady_record()
    failing = dataclasses.replace(record, status=np.where(np.arange(len(record.start)) % 2, FAILED, OK))
    assert level_row(failing, IDLE).throughput_rps == pytest.approx(20.0, rel=0.01)


def test_a_level_without_an_answer_has_no_latency() -> None:
    record = steady_record()
    dead = dataclasses.replace(record, status=np.full(len(record.start), TIMED_OUT))
    row = level_row(dead, IDLE)
    assert row.throughput_rps == 0.0
    assert row.p50_ms is None
    assert "no answer within the window" in row.invalid_reason


def test_a_busy_client_invalidates_the_level() -> None:
    row = level_row(steady_record(), dataclasses.replace(IDLE, client_cores=0.95))
    assert not row.valid
    assert row.invalid_reason == "client-bound: its CPU was 95% of a core"


def test_a_rate_near_the_clients_limit_is_invalid() -> None:
    row = level_row(steady_record(), IDLE, client_limit_rps=45.0)
    assert row.invalid_reason == "client-bound: 89% of what the client can send"
    assert level_row(steady_record(), IDLE, client_limit_rps=60.0).valid


def test_a_level_that_drifts_is_unstable() -> None:
    record = steady_record()
    # The second half is answered at half the rate: every other request is left out.
    late = record.start > 30
    kept = ~late | (np.arange(len(record.start)) % 2 == 0)
    drifting = {name: getattr(record, name)[kept] for name in REQUEST_FIELDS}
    row = level_row(dataclasses.replace(record, **drifting), IDLE)
    assert not row.valid
    assert "unstable: the last 3 windows differ by" in row.invalid_reason
    assert "Little's law" in row.invalid_reason


def test_a_window_without_an_answer_is_named() -> None:
    record = dataclasses.replace(steady_record(), window_edges=np.array([10.01, 20.01, 30.01, 90.01]))
    late = dataclasses.replace(record, window_edges=np.array([10.01, 59.01, 61.0, 90.01]))
    assert "windows differ by" in level_row(record, IDLE).invalid_reason
    assert "unstable: the last 3 windows have one without an answer" in level_row(late, IDLE).invalid_reason


def test_only_the_last_three_windows_are_reported() -> None:
    record = dataclasses.replace(steady_record(), window_edges=np.array([5.01, 10.01, 20.01, 30.01, 40.01]))
    row = level_row(record, IDLE)
    assert record.window == (10.01, 40.01)
    assert (row.windows, row.window_s, row.samples) == (4, 30.0, 1200)


def test_littles_law_finds_missing_users() -> None:
    row = level_row(dataclasses.replace(steady_record(), users=5), IDLE)
    assert row.invalid_reason == "Little's law: rate x latency is 4.00, not 5 users"


def test_the_clients_lateness_is_the_gap_after_an_answer() -> None:
    record = steady_record(latency_s=0.1)
    assert level_row(record, IDLE).client_late_ms == pytest.approx(0.0, abs=1e-6)
    hurried = dataclasses.replace(record, end=record.end - 0.004)
    assert level_row(hurried, IDLE).client_late_ms == pytest.approx(4.0)


def test_other_load_is_a_warning_and_leaves_the_level_valid() -> None:
    usage = dataclasses.replace(
        IDLE,
        other_percent=14.0,
        steal_percent=2.0,
        throttled_s=0.5,
        cores=(1.0, 2.0),
        mhz=1800.0,
        best_mhz=3000.0,
    )
    row = level_row(steady_record(), usage)
    assert row.valid
    assert row.warnings.split("; ") == [
        "other processes used 14% of the machine",
        "the number of cores changed between 1 and 2",
        "the CPU ran at 1800 MHz of 3000 before",
        "a CPU quota held processes back for 0.5 s",
    ]


def test_cpu_time_per_request_is_told_by_process() -> None:
    usage = dataclasses.replace(IDLE, process_cores={1: 0.02, 2: 0.2, 3: 0.6, 4: 0.4, 5: 0.1})
    row = level_row(steady_record(), usage, roles={2: "http", 3: "worker", 4: "worker"})
    assert row.http_cpu_ms == pytest.approx(5.0)
    assert row.workers_cpu_ms == pytest.approx(25.0)
    assert row.manager_cpu_ms == pytest.approx(3.0)
    assert row.client_cpu_ms == pytest.approx(2.5)


def test_raw_samples_keep_every_request() -> None:
    record = with_status(steady_record(), p3=TIMED_OUT)
    samples = raw_samples(record, "levels")
    assert len(samples) == len(record.start)
    assert samples[3]["status"] == "timed out"
    assert sum(sample["measured"] for sample in samples) == 1600
    assert samples[0]["start_s"] == pytest.approx(-10.01)
