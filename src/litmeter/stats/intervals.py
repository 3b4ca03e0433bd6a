"""Confidence intervals and bounds of proportions."""

from __future__ import annotations

import math

from scipy.special import betaincinv

Z95 = 1.959963984540054
"""97.5% quantile of the normal distribution: two-sided 95%."""


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """95% score interval of a proportion (Wilson 1927); sound for few trials and near 0 or 1.

    Raises:
        ValueError: there were no trials.
    """
    if trials < 1:
        raise ValueError("an interval needs at least one trial")
    proportion = successes / trials
    spread = Z95 * math.sqrt(proportion * (1 - proportion) / trials + Z95**2 / (4 * trials**2))
    centre = proportion + Z95**2 / (2 * trials)
    scale = 1 + Z95**2 / trials
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def lower_bound(successes: int, trials: int) -> float:
    """One-sided 95% bound: with 95% certainty the proportion is no less (Clopper and Pearson 1934).

    Raises:
        ValueError: there were no trials.
    """
    if trials < 1:
        raise ValueError("a bound needs at least one trial")
    return float(betaincinv(successes, trials - successes + 1, 0.05)) if successes else 0.0
