"""Capacity under an objective: the highest rate of random arrivals at which few enough requests miss it.

A probe offers one rate for some seconds and yields the share of requests that missed. Shares at one rate
scatter far more than shares of independent requests: neighbours in a queue wait for each other, and the
machine changes its speed. So one logistic regression of the share on the logarithm of the rate pools all
probes; the interval comes from the differences between blocks of successive probes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import expit, logit, stdtrit

from litmeter.stats.records import Floats

SLOPE, SLOPE_ERROR, LOWEST_SLOPE = 12.0, 12.0, 2.0
"""Slope of logit(share) over ln(rate), from simulated queues: mean, standard deviation, minimum."""
PENALTY = np.diag([1e-4, 1 / SLOPE_ERROR**2])
"""Of the prior of intercept and slope."""
LEAST_WEIGHT, MOST_WEIGHT = 6.0, 200.0
"""Number of independent requests that a probe is worth: on a machine of changing speed, and a steady one."""
REACH = 0.2
"""How far beyond the probes, in ln(rate), an estimate may lie."""
BLOCKS = 5, 10
"""Numbers of blocks of successive probes, as slow spells of a machine may be long or short; the wider
interval of both counts."""


@dataclass(frozen=True)
class Curve:
    """The share of requests that miss the objective: logistic in ln(rate), ``miss`` at ``capacity_rps``."""

    capacity_rps: float
    slope: float
    miss: float

    def shares(self, rates_rps: Floats) -> Floats:
        """The share at each rate."""
        shares: Floats = expit(logit(self.miss) + self.slope * np.log(rates_rps / self.capacity_rps))
        return shares


@dataclass(frozen=True)
class Probes:
    """Successive probes: offered rates, shares of requests that missed, and numbers of requests.

    The number of requests weights a probe: when by chance few requests arrive, few miss.
    """

    rates_rps: Floats
    shares: Floats
    requests: Floats

    def __len__(self) -> int:
        return len(self.shares)


def fit(probes: Probes, miss: float) -> Curve:
    """The curve through one or more probes.

    Quasi-binomial (Wedderburn 1974): a probe weighs as many independent requests as would scatter around the
    curve as much as the probes do. A prior of the slope makes few probes suffice.
    """
    fitted, x = _fit(probes, miss), np.log(probes.rates_rps)
    crossing = fitted.centre + fitted.distance(miss)
    capacity_rps = math.exp(np.clip(crossing, x.min() - REACH, x.max() + REACH))
    return Curve(capacity_rps, float(fitted.coefficients[1]), miss)


def interval(probes: Probes, miss: float) -> tuple[float, float]:
    """Interval of the capacity by three or more probes, by the scatter of blocks of successive probes.

    A block's influence is how far the estimate moves without it, by a step of Newton's method: the sandwich
    estimate CR3 of clustered data (Bell and McCaffrey 2002), with Student's t. Fits without a block are not
    repeated, as some would extrapolate.
    """
    fitted, estimate = _fit(probes, miss), math.log(fit(probes, miss).capacity_rps)
    slope = fitted.coefficients[1]
    gradient = -np.array([1.0, fitted.distance(miss)]) / slope
    spread = 0.0
    for count in BLOCKS:
        blocks = np.array_split(range(len(probes)), min(count, len(probes)))
        moves = np.array([gradient @ fitted.step_without(block.tolist()) for block in blocks])
        freedom = len(blocks) - 1
        spread = max(spread, float(stdtrit(freedom, 0.975)) * math.sqrt(freedom * float(moves.var())))
    return math.exp(estimate - spread), math.exp(estimate + spread)


@dataclass(frozen=True)
class _Fit:
    """A logistic regression on ln(rate).

    Attributes:
        centre: of ln(rate), where the intercept is.
        coefficients: intercept and slope.
        design, residuals, information: by probe, (n, 2), (n) and (n).
    """

    centre: float
    coefficients: Floats
    design: Floats
    residuals: Floats
    information: Floats

    def distance(self, miss: float) -> float:
        """From the centre to where the share is ``miss``, in ln(rate)."""
        intercept, slope = self.coefficients
        return float((logit(miss) - intercept) / slope)

    def step_without(self, block: Sequence[int]) -> Floats:
        """How the coefficients change without some probes."""
        kept: Floats = np.delete(self.design, block, axis=0)
        information: Floats = np.delete(self.information, block)
        hessian = kept.T @ (kept * information[:, None]) + PENALTY
        without: Floats = self.design[block].T @ self.residuals[block]
        return np.asarray(-np.linalg.solve(hessian, without), np.float64)


def _fit(probes: Probes, miss: float) -> _Fit:
    x, shares = np.log(probes.rates_rps), probes.shares
    parts = probes.requests / probes.requests.mean()
    weight = LEAST_WEIGHT
    for _ in range(3):
        fitted = _logistic(x, shares, weight * parts, miss)
        expected = np.clip(expit(fitted.design @ fitted.coefficients), miss / 10, 1 - miss / 10)
        squares = parts * (shares - expected) ** 2 / (expected * (1 - expected))
        scatter = float(squares.sum()) / max(1, len(x) - 2)
        weight = float(np.clip(1 / max(scatter, 1e-9), LEAST_WEIGHT, MOST_WEIGHT))
    return fitted


def _logistic(x: Floats, shares: Floats, weights: Floats, miss: float) -> _Fit:
    """Logistic regression by Newton's method."""
    centre = float(np.average(x, weights=weights))
    design = np.stack([np.ones_like(x), x - centre], axis=1)
    prior = np.array([float(logit(miss)), SLOPE])
    coefficients = prior.copy()
    for _ in range(30):
        expected = expit(np.clip(design @ coefficients, -30, 30))
        information = weights * expected * (1 - expected) + 1e-9
        gradient = design.T @ (weights * (shares - expected)) - PENALTY @ (coefficients - prior)
        hessian = design.T @ (design * information[:, None]) + PENALTY
        step = np.clip(np.linalg.solve(hessian, gradient), -2, 2)
        coefficients = coefficients + step
        if np.abs(step).max() < 1e-6:
            break
    coefficients[1] = max(coefficients[1], LOWEST_SLOPE)
    expected = expit(design @ coefficients)
    residuals, information = weights * (shares - expected), weights * expected * (1 - expected)
    return _Fit(centre, coefficients, design, residuals, information)
