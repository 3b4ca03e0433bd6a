"""Records of loads: every request counted, and when windows agree."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from litmeter.benchmark.comparison import turn_of
from litmeter.loadgen import LoadPlan
from litmeter.stats.records import FAILED, OK, LoadRecord, spread, steady, window_means


@pytest.mark.parametrize(
    ("rates", "latencies", "answers", "expected"),
    [
        ([10, 10.5, 9.5], [1, 1.05, 0.95], 100, True),
        ([10, 12, 10], [1, 1, 1], 100, False),
        ([10, 12, 10], [1, 1, 1], 20, True),
        ([10, 16, 10], [1, 1, 1], 20, False),
        ([10, 10, 10], [1, 1.3, 1], 100, False),
        ([0, 0, 0], [1, 1, 1], 0, False),
        ([10, 10, 10], [1, float("nan"), 1], 1, False),
    ],
)
def test_steady_needs_rate_and_latency_near_their_means(
    rates: list[float], latencies: list[float], answers: int, expected: bool
) -> None:
    assert steady(np.array(rates), np.array(latencies), answers) is expected


def test_spread_is_the_largest_distance_from_the_mean() -> None:
    assert spread(np.array([8.0, 10.0, 12.0])) == pytest.approx(0.2)


def test_requests_count_in_the_window_that_they_fall_into() -> None:
    start = np.arange(0, 3, 0.5)
    rates, latencies = window_means(start, start + 0.25, np.array([0.0, 1.0, 3.0, 4.0]))
    assert rates == pytest.approx([2, 2, 0])
    assert latencies[:2] == pytest.approx([0.25, 0.25])
    assert np.isnan(latencies[2])


PLAN = LoadPlan(
    users=64, requests=1, warmup_s=0.0, min_s=1.0, max_s=1.0, max_windows=3, timeout_s=30.0, seed=42
)


def record(start: list[float], end: list[float], rate_rps: float | None) -> LoadRecord:
    """Good requests around three windows between 1 s and 4 s."""
    count = len(start)
    zeros = np.zeros(count, dtype=np.int64)
    return LoadRecord(
        users=1,
        rate_rps=rate_rps,
        window_edges=np.array([1.0, 2.0, 3.0, 4.0]),
        user=zeros,
        start=np.array(start),
        sent=np.array(start),
        end=np.array(end),
        status=np.full(count, OK),
        code=np.full(count, 200),
        size=zeros,
        body=zeros,
        answer=np.full(count, b""),
    )


def test_a_closed_loop_reports_what_ended_in_the_windows() -> None:
    found = record(start=[0.5, 2.0, 3.9, 3.5], end=[1.5, 2.5, 6.0, 4.0], rate_rps=None)
    assert found.in_window.tolist() == [True, True, False, True]


def test_an_open_loop_reports_what_was_due_in_the_windows() -> None:
    """The slowest, due in the last window and answered after it, is not left out."""
    found = record(start=[0.5, 2.0, 3.9, 3.5], end=[1.5, 2.5, 6.0, 4.0], rate_rps=1.0)
    assert found.in_window.tolist() == [False, True, True, True]


def test_each_load_has_random_numbers_of_its_own() -> None:
    loads = [
        PLAN,
        replace(PLAN, rate_rps=100.0),
        replace(PLAN, rate_rps=200.0),
        replace(PLAN, rate_rps=200.0, repeat=1),
        replace(PLAN, users=8),
        replace(PLAN, seed=43),
    ]
    assert len({load.random_seed for load in loads}) == len(loads)
    assert PLAN.random_seed == replace(PLAN, max_s=9.0).random_seed


def test_a_turn_without_a_good_answer_in_its_window_is_bounded_by_those_before() -> None:
    """Nine in the warm-up of a second, then failures alone, for four seconds in all."""
    found = record(start=[0.0, *[0.1] * 8, 1.0], end=[*[0.9] * 9, 4.0], rate_rps=None)
    turn = turn_of("any", 0, replace(found, status=np.array([*[OK] * 9, FAILED])))
    assert (turn.rate_rps, turn.failed, turn.bound_rps) == (None, 1, 2.5)
    assert turn.bound_rps > 9 / 4
