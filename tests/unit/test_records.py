"""How requests are recorded, and which of them are reported."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from litmeter.load.process import Answer, Level
from litmeter.measure.capacity import missed_by_lateness
from litmeter.stats.records import FAILED, OK, REQUEST_FIELDS, TIMED_OUT, Limits, steady, window_means
from tests.support.load import plan, record

NO_WINDOWS = np.zeros(2)


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


def test_requests_count_in_the_window_that_they_fall_into() -> None:
    start = np.arange(0, 3, 0.5)
    rates, latencies, answers = window_means(start, start + 0.25, np.array([0.0, 1.0, 3.0, 4.0]))
    assert rates == pytest.approx([2, 2, 0])
    assert latencies == pytest.approx([0.25, 0.25, float("nan")], nan_ok=True)
    assert answers == 0


def test_each_request_is_a_row() -> None:
    level = Level("http://x", [], plan(2, timeout_s=1.0))
    empty = level.record(NO_WINDOWS, 0.0)
    assert {len(getattr(empty, name)) for name in (*REQUEST_FIELDS, "answers")} == {0}
    assert level.add(0, 3, 1.0, 1.1, 1.5, Answer(200, b"answer", None))
    assert not level.add(1, 4, 1.0, 1.1, 2.2, Answer(0, b"", None))
    assert not level.add(1, 3, 2.2, 2.2, 2.3, Answer(503, b"full", None))
    assert not level.add(0, 3, 1.5, 1.5, 1.5, Answer(0, b"", None, sent=False))  # for want of a descriptor
    found = level.record(NO_WINDOWS, 0.0)
    assert (level.sent, found.unsent) == (3, 1)
    assert found.body.tolist() == [3, 4, 3]
    assert found.end.tolist() == [1.5, 2.2, 2.3]
    assert found.status.tolist() == [OK, TIMED_OUT, FAILED]
    assert found.size.tolist() == [6, 0, 4]
    assert not found.answers  # nobody reads them


def test_a_single_large_answer_costs_its_own_bytes_alone() -> None:
    level = Level("http://x", [], plan(2, keep_answers=True))
    for number in range(10_000):
        content = bytes(60_000) if number == 77 else b"{}"
        level.add(0, 3, 1.0, 1.1, 1.5, Answer(200, content, None))
    found = level.record(NO_WINDOWS, 0.0)
    assert sum(map(len, found.answers)) == found.size.sum() == 60_000 + 2 * 9_999
    assert len(pickle.dumps(found)) < 2_000_000


@pytest.mark.parametrize(
    ("rate_rps", "inside"), [(None, [True, True, False, True]), (1.0, [False, True, True, True])]
)
def test_a_closed_loop_reports_what_ended_in_the_windows_an_open_loop_what_was_due(
    rate_rps: float | None, inside: list[bool]
) -> None:
    """The slowest, due in the last window and answered after it, is not left out."""
    made = record([0.5, 2.0, 3.9, 3.5], [1.5, 2.5, 6.0, 4.0], rate_rps=rate_rps)
    assert made.in_window.tolist() == inside


@pytest.mark.parametrize(
    ("late_s", "users", "slo_ms", "share"),
    [
        (0.0, 100, 50.0, 0.0),
        (0.02, 100, 50.0, 1.0),
        (0.02, 100, 30.0, 0.0),  # they miss it anyway
        # Those after the first three were due while the only connection was busy: they waited for the server.
        (0.02, 1, 50.0, 0.3),
    ],
)
def test_lateness_counts_where_it_alone_makes_a_request_miss(
    late_s: float, users: int, slo_ms: float, share: float
) -> None:
    """Ten requests, each due 10 ms after the last, which take 40 ms from when they are sent."""
    due = np.arange(10) * 0.01 + 1.0
    made = record(
        due, due + late_s + 0.04, sent=due + late_s, users=users, rate_rps=100.0, edges=(0.0, 1.0, 1.05, 2.0)
    )
    assert missed_by_lateness(made, Limits(slo_ms)) == pytest.approx(share)
