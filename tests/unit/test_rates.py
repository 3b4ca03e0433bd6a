"""Throughput, percentiles and proportions, against arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from litmeter.stats.rates import (
    Throughput,
    percentile,
    percentile_of_blocks,
    samples_needed,
    throughput,
    wilson_interval,
)
from litmeter.stats.records import block_rates, work_done


def test_wilsons_interval_is_newcombes_table() -> None:
    # Newcombe (1998), "Two-sided confidence intervals for the single proportion", table I, method 3.
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)
    assert wilson_interval(111, 111)[1] == 1.0


def in_batches(users: int, service_s: float, until_s: float) -> tuple[np.ndarray, np.ndarray]:
    """A server that takes all users' requests as one batch, again and again."""
    edges = np.arange(0.0, until_s, service_s)
    start = np.repeat(edges, users)
    return start, start + service_s


def rate_of(start: np.ndarray, end: np.ndarray, opened: float, closed: float) -> Throughput:
    return throughput(block_rates(start, end, opened, closed))


@pytest.mark.parametrize("offset", [0.0, 0.1, 0.35, 0.69])
def test_the_rate_of_batches_does_not_depend_on_the_window(offset: float) -> None:
    start, end = in_batches(users=32, service_s=0.7, until_s=30)
    rate = rate_of(start, end, 5 + offset, 12.3 + offset)
    assert rate.rps == pytest.approx(32 / 0.7)
    # Counting the answers inside, as most tools do, is off by a part of a batch.
    counted = ((end > 5 + offset) & (end <= 12.3 + offset)).sum() / 7.3
    assert abs(counted - 32 / 0.7) > 0.5


def test_a_request_counts_by_its_part_inside_the_window() -> None:
    start, end = np.array([0.0, 1.0, 9.0, 20.0]), np.array([2.0, 2.0, 13.0, 21.0])
    assert work_done(start, end, 1.0, 10.0) == pytest.approx(0.5 + 1.0 + 0.25)
    assert work_done(np.array([0.0]), np.array([100.0]), 10.0, 20.0) == pytest.approx(0.1)


def test_a_changing_rate_has_a_wider_interval() -> None:
    start, end = in_batches(users=4, service_s=0.01, until_s=20)
    steady = rate_of(start, end, 1.0, 11.0)
    assert steady.high_rps - steady.low_rps < 1e-6 * steady.rps
    slower = np.concatenate([start[start < 6], np.arange(6.0, 20.0, 0.02)])
    changing = rate_of(slower, slower + 0.01, 1.0, 11.0)
    assert changing.low_rps < changing.rps < changing.high_rps
    assert changing.high_rps - changing.low_rps > 0.2 * changing.rps


def test_the_interval_covers_the_true_rate_95_percent_of_times() -> None:
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(300):
        end = np.cumsum(rng.exponential(0.02, 2000))
        start = np.concatenate([[0.0], end[:-1]])
        rate = rate_of(start, end, 2.0, 22.0)
        covered += rate.low_rps <= 50 <= rate.high_rps
    assert 0.90 <= covered / 300 <= 0.99


@pytest.mark.parametrize("percent", [50, 95])
@pytest.mark.parametrize(("batches", "size"), [(50, 4), (200, 4), (500, 1), (100, 8)])
def test_the_interval_of_a_percentile_covers_it(batches: int, size: int, percent: int) -> None:
    """Batches whose times vary, their requests alike, in 300 runs."""
    rng, held = np.random.default_rng(3), 0
    truth = float(np.exp(0.3 * norm.ppf(percent / 100)))
    for _ in range(300):
        latency = np.repeat(np.exp(0.3 * rng.normal(size=batches)), size)
        _, low, high = percentile_of_blocks(np.array_split(latency, 10), percent)
        assert low is not None
        assert high is not None
        held += low <= truth <= high
    assert held / 300 > 0.88


@pytest.mark.parametrize(("percent", "needed"), [(80, 31), (95, 130), (99, 662)])
def test_a_percentile_needs_its_samples(percent: int, needed: int) -> None:
    assert samples_needed(percent) == needed
    assert percentile(np.arange(needed - 1.0), percent) is None
    assert percentile(np.arange(float(needed)), percent) == pytest.approx((needed - 1) * percent / 100)


def test_no_samples_have_no_median_and_a_single_block_no_interval() -> None:
    assert percentile(np.array([]), 50) is None
    assert percentile_of_blocks([np.arange(200.0), np.array([])], 95)[1:] == (None, None)
