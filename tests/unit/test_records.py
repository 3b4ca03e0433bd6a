"""Which requests of a record are reported, and that loads differ in their arrivals."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from litmeter.benchmark.paused_servers import turn_of
from litmeter.loadgen import LoadPlan
from litmeter.stats.records import FAILED, OK, LoadRecord

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
