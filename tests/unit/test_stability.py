"""When the windows of a level agree."""

from __future__ import annotations

import numpy as np
import pytest

from litmeter.stats.stability import spread, steady, window_means


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
