"""Capacity under an objective: the highest rate of random arrivals at which few enough requests miss it.

A probe offers one rate for some seconds and yields the share of requests that missed. One probe misleads:
neighbours in a queue wait for each other, and the machine changes its speed, so that shares at one rate
differ far more than those of independent requests. All probes are pooled in one logistic regression of the
share on the logarithm of the rate; the interval comes from the differences between probes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import expit, logit, stdtrit

from litmeter.stats.records import Floats

SLOPE, SLOPE_ERROR, LOWEST_SLOPE = 12.0, 12.0, 2.0
"""Slope of logit(share) over ln(rate), from simulated queues: mean, standard deviation, least."""
LEAST_WEIGHT, MOST_WEIGHT = 6.0, 200.0
"""Independent requests that a probe counts as: on a machine that changes its speed, and on a calm one."""
REACH = 0.2
"""How far beyond the probes, in ln(rate), an estimate may lie."""
JACKKNIFE_BLOCKS = 6
"""Blocks of successive probes: longer than a machine keeps its speed."""


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
    """Probes in their order: offered rates, shares of the requests that missed, and numbers of requests.

    They count by these: when by chance few arrive, few miss as well.
    """

    rates_rps: Floats
    shares: Floats
    requests: Floats

    def __len__(self) -> int:
        return len(self.shares)


def fit(probes: Probes, miss: float) -> Curve:
    """The curve through probes, one at least.

    Quasi-binomial (Wedderburn 1974): a probe counts as so many independent requests as would scatter around
    the curve like the probes do. The slope has a prior, so that two probes have a curve, too.
    """
    x, shares = np.log(probes.rates_rps), probes.shares
    parts = probes.requests / probes.requests.mean()
    weight = LEAST_WEIGHT
    for _ in range(3):
        centre, intercept, slope = _logistic(x, shares, weight * parts, miss)
        expected = np.clip(expit(intercept + slope * (x - centre)), miss / 10, 1 - miss / 10)
        squares = parts * (shares - expected) ** 2 / (expected * (1 - expected))
        scatter = float(squares.sum()) / max(1, len(x) - 2)
        weight = float(np.clip(1 / max(scatter, 1e-9), LEAST_WEIGHT, MOST_WEIGHT))
    crossing = centre + (float(logit(miss)) - intercept) / slope
    return Curve(math.exp(np.clip(crossing, x.min() - REACH, x.max() + REACH)), slope, miss)


def interval(probes: Probes, miss: float) -> tuple[float, float]:
    """95% interval of the capacity by three probes at least: a jackknife over blocks of successive ones."""
    estimate = math.log(fit(probes, miss).capacity_rps)
    blocks = np.array_split(np.arange(len(probes)), min(JACKKNIFE_BLOCKS, len(probes)))
    rest = [Probes(*(np.delete(one, block) for one in vars(probes).values())) for block in blocks]
    logs = np.log([fit(one, miss).capacity_rps for one in rest])
    freedom = len(blocks) - 1
    spread = float(stdtrit(freedom, 0.975)) * math.sqrt(freedom * float(logs.var()))
    return math.exp(estimate - spread), math.exp(estimate + spread)


def _logistic(x: Floats, shares: Floats, weights: Floats, miss: float) -> tuple[float, float, float]:
    """Centre, intercept there, and slope of the logistic regression, by Newton's method."""
    centre = float(np.average(x, weights=weights))
    design = np.stack([np.ones_like(x), x - centre], axis=1)
    precision = np.diag([1e-4, 1 / SLOPE_ERROR**2])
    prior = np.array([float(logit(miss)), SLOPE])
    coefficients = prior.copy()
    for _ in range(30):
        expected = expit(np.clip(design @ coefficients, -30, 30))
        information = weights * expected * (1 - expected) + 1e-9
        gradient = design.T @ (weights * (shares - expected)) - precision @ (coefficients - prior)
        hessian = design.T @ (design * information[:, None]) + precision
        step = np.clip(np.linalg.solve(hessian, gradient), -2, 2)
        coefficients = coefficients + step
        if np.abs(step).max() < 1e-6:
            break
    return centre, float(coefficients[0]), max(float(coefficients[1]), LOWEST_SLOPE)
