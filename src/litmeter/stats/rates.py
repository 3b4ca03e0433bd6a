"""Throughput, latency percentiles and proportions, with 95% intervals."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy.special import bdtr, betaincinv, stdtrit

from litmeter.stats.records import Floats, joined

Z95 = 1.959963984540054
"""97.5% quantile of the normal distribution."""


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """95% score interval of a proportion (Wilson 1927); valid for few trials, and near 0 or 1."""
    proportion = successes / trials
    spread = Z95 * math.sqrt(proportion * (1 - proportion) / trials + Z95**2 / (4 * trials**2))
    centre = proportion + Z95**2 / (2 * trials)
    scale = 1 + Z95**2 / trials
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def lower_bound(successes: int, trials: int) -> float:
    """Lower one-sided 95% bound of a proportion (Clopper and Pearson 1934)."""
    return float(betaincinv(successes, trials - successes + 1, 0.05)) if successes else 0.0


FLOOR_ERROR, MOST_SAMPLES = 0.01, 2**31


@cache
def samples_needed(percent: float) -> int:
    """Fewest samples that support a percentile: 130 for 95, 662 for 99, one up to the median.

    Two or more of these lie above the percentile, except with probability FLOOR_ERROR: MLPerf LoadGen's
    binomial floor (https://github.com/mlcommons/inference, loadgen/early_stopping.cc).
    """
    if percent <= 50:
        return 1
    above = 1 - percent / 100
    return bisect_left(range(MOST_SAMPLES), True, key=lambda n: bool(bdtr(1, n, above) <= FLOOR_ERROR))


@dataclass(frozen=True)
class Throughput:
    """Requests (or images) per second, with a 95% interval."""

    rps: float
    low_rps: float
    high_rps: float


def throughput(rates: Floats) -> Throughput:
    """Mean of a window's ``block_rates``, with an interval by the method of batch means.

    Consecutive requests share batches, so they depend on each other; whole blocks are nearly independent.
    """
    rps, spread = float(rates.mean()), _spread(rates)
    return Throughput(rps, max(0.0, rps - spread), rps + spread)


def _spread(values: Floats) -> float:
    return float(stdtrit(len(values) - 1, 0.975)) * float(values.std(ddof=1)) / math.sqrt(len(values))


def objective_percent(miss: float) -> float:
    """The latency percentile that must meet an objective that the share ``miss`` of requests may miss."""
    return round(100 * (1 - miss), 9)


def percentile(latency: Floats, percent: float) -> float | None:
    """A latency percentile; None with too few samples."""
    if len(latency) < samples_needed(percent):
        return None
    return float(np.percentile(latency, percent))


def percentile_of_blocks(blocks: Sequence[Floats], percent: int) -> tuple[float | None, ...]:
    """A latency percentile of all blocks together, and the ends of its 95% interval; None where unknown.

    The requests of a batch depend on each other, so the interval comes from the differences between blocks:
    the share of requests up to the percentile varies from block to block; the ends of the t interval of the
    mean share are converted to percentiles of all requests. In 89 to 97% of simulated runs the interval holds
    the true p95 (tests/unit/test_rates.py).
    """
    blocks = [block for block in blocks if len(block)]
    requests = joined(blocks)
    whole = percentile(requests, percent)
    if whole is None or len(blocks) < 2:
        return whole, None, None
    shares = np.array([float((block <= whole).mean()) for block in blocks])
    spread = 100 * _spread(shares)
    low, high = np.percentile(requests, np.clip([percent - spread, percent + spread], 0, 100))
    return whole, float(low), float(high)
