"""Capacity under an objective: the highest rate of random arrivals at which few enough requests miss it.

A probe offers one rate for some seconds and yields the share of requests that missed. Shares at one rate
scatter far more than shares of independent requests: neighbours in a queue wait for each other, and the
machine changes its speed. So one logistic regression of the share on the logarithm of the rate pools all
probes; the interval comes from the differences between probes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import expit, logit, stdtrit

from litmeter.stats.records import Floats

SLOPE, SLOPE_ERROR, LOWEST_SLOPE = 12.0, 12.0, 2.0
"""Slope of logit(share) over ln(rate), from simulated queues: mean, standard deviation, minimum."""
LEAST_WEIGHT, MOST_WEIGHT = 6.0, 200.0
"""Number of independent requests that a probe is worth: on a machine of changing speed, and a steady one."""
REACH = 0.2
"""How far beyond the probes, in ln(rate), an estimate may lie."""
JACKKNIFE_BLOCKS = 6
"""Blocks of successive probes; each lasts longer than a machine keeps its speed."""


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
    """95% interval of the capacity by three or more probes: a jackknife over blocks of successive probes."""
    estimate = math.log(fit(probes, miss).capacity_rps)
    blocks = np.array_split(np.arange(len(probes)), min(JACKKNIFE_BLOCKS, len(probes)))
    rests = [Probes(*(np.delete(values, block) for values in vars(probes).values())) for block in blocks]
    logs = np.log([fit(rest, miss).capacity_rps for rest in rests])
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
