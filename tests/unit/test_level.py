"""One level: every request accounted for, and a verdict that hides nothing."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from servebench.load.generator import FAILED, OK, TIMED_OUT, Level
from servebench.measure.level import LevelRow, best_level, level_row, raw_samples
from servebench.measure.telemetry import Usage

IDLE = Usage(cpu_percent=50.0, server_cores=0.9, client_cores=0.1, gpu_percent=None, gpu_memory_mib=None)


def steady_level(users: int = 4, latency_s: float = 0.1, until_s: float = 60.0) -> Level:
    """``users`` users, each answered every ``latency_s``, one after another."""
    edges = np.arange(0.0, until_s, latency_s)
    start = np.concatenate([edges + latency_s * user / users for user in range(users)])
    user = np.repeat(np.arange(users), len(edges))
    order = np.argsort(start)
    count = len(start)
    return Level(
        users=users,
        window=(10.01, 50.01),
        user=user[order],
        start=start[order],
        end=start[order] + latency_s,
        status=np.full(count, OK),
        code=np.full(count, 200),
        size=np.full(count, 80),
    )


def with_status(level: Level, **positions: int) -> Level:
    status = level.status.copy()
    for position, value in positions.items():
        status[int(position[1:])] = value
    return dataclasses.replace(level, status=status)


def test_a_steady_level() -> None:
    row = level_row(steady_level(), IDLE)
    assert row["throughput_rps"] == pytest.approx(40.0)
    assert row["p50_ms"] == row["p95_ms"] == row["p99_ms"] == pytest.approx(100.0)
    assert row["samples"] == 1600
    assert row["valid"]
    assert row["why"] == ""
    assert row["gpu_percent"] is None


def test_every_request_is_accounted_for_and_failures_are_not_quiet() -> None:
    level = with_status(steady_level(), p0=FAILED, p900=FAILED, p901=TIMED_OUT)
    row = level_row(level, IDLE)
    assert row["sent"] == row["ok"] + row["failed"] + row["timed_out"] == len(level.start)
    assert (row["failed"], row["timed_out"]) == (2, 1)
    assert not row["valid"]
    assert row["why"] == f"2 failed and 1 timed out of {len(level.start)}"


def test_failed_requests_are_no_throughput() -> None:
    level = steady_level()
    failing = dataclasses.replace(level, status=np.where(np.arange(len(level.start)) % 2, FAILED, OK))
    assert level_row(failing, IDLE)["throughput_rps"] == pytest.approx(20.0, rel=0.01)


def test_a_level_without_an_answer_has_no_latency() -> None:
    level = steady_level()
    dead = dataclasses.replace(level, status=np.full(len(level.start), TIMED_OUT))
    row = level_row(dead, IDLE)
    assert row["throughput_rps"] == 0.0
    assert row["p50_ms"] is None
    assert "no answer within the window" in row["why"]


def test_a_busy_client_is_named() -> None:
    row = level_row(steady_level(), dataclasses.replace(IDLE, client_cores=0.95))
    assert not row["valid"]
    assert row["why"] == "client-bound: its CPU was 95% of a core"


def row_of(users: int, rps: float, low: float, valid: bool = True) -> LevelRow:
    row = level_row(steady_level(), IDLE)
    row.update(users=users, throughput_rps=rps, low_rps=low, valid=valid)
    return row


def test_the_best_level_is_the_fastest_valid_one() -> None:
    rows = [row_of(1, 20, 19), row_of(8, 60, 58), row_of(32, 90, 80, valid=False)]
    assert best_level(rows) == rows[1]


def test_within_the_interval_fewer_users_are_better() -> None:
    rows = [row_of(1, 20, 19), row_of(8, 60, 58), row_of(32, 61, 59.5)]
    assert best_level(rows) == rows[1]


def test_no_valid_level_has_no_best() -> None:
    assert best_level([row_of(1, 20, 19, valid=False)]) is None


def test_raw_samples_keep_every_request() -> None:
    level = with_status(steady_level(), p3=TIMED_OUT)
    samples = raw_samples(level, "every level")
    assert len(samples) == len(level.start)
    assert samples[3]["status"] == "timed out"
    assert sum(sample["measured"] for sample in samples) == 1600
    assert samples[0]["start_s"] == pytest.approx(-10.01)
