"""Requests that miss an objective only because they were sent late."""

from __future__ import annotations

import numpy as np
import pytest

from litmeter.benchmark.probe_validity import missed_by_lateness
from litmeter.stats.records import OK, LoadRecord


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
