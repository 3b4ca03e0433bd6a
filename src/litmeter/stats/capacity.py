"""Capacity under an objective: the highest rate of Poisson arrivals at which few enough requests miss it.

Each probe offers one rate for a while, and yields the share of requests that missed. One probe alone
misleads: in a queue the waits of neighbours depend on each other, so the share varies much more than that of
independent requests. All probes are therefore pooled in one logistic regression of the share on the logarithm
of the load. The load is the rate over the closed loop's peak beside it, so that a change of the machine's
speed cancels. Probes in which the machine was slow for a moment say more about the machine than about the
server: they count only where most probes are such, or nothing else is known, and resolve nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

BLOCKS = 10
"""Successive parts of a probe, whose spread shows how much its share varies."""
FIRST_LOAD, HIGHEST_LOAD, LOWEST_LOAD = 0.8, 0.985, 0.02
"""Shares of the peak: of the first probe, and bounds. Near the peak itself a queue grows without end."""
RAISE, LOWER = 1.08, 0.85
"""Factors of the load while all probes so far have held the objective, or all have missed it."""
STEP = 0.03
"""Distance of later probes from the estimate, in ln(load), to either side in turn."""
FEWEST_PROBES = 5
KERNEL_WIDTH = 0.12
"""Probes count by their distance from the estimate, in ln(load): the logistic curve holds nearby only."""
REACH = 0.1
"""How far beyond the probes, in ln(load), the estimate may lie."""
SLOPE, SLOPE_ERROR = 12.0, 12.0
"""What is known of the slope of logit(share) over ln(load) beforehand, from queues of known capacity."""
ERRORS = 2.6
"""Standard errors to either end of the interval: 1.96 were too few in simulated queues."""


@dataclass(frozen=True)
class Probe:
    """The outcome of one rate.

    Attributes:
        rate_rps: of the requests that were due, not the one that was asked for.
        peak_rps: of a closed loop, around the probe.
        missed: share of the requests that missed the objective, in each of BLOCKS parts.
        requests: number of requests due.
        steady: whether the machine had no slow moment.
    """

    rate_rps: float
    peak_rps: float
    missed: tuple[float, ...]
    requests: int
    steady: bool = True

    @property
    def load(self) -> float:
        """ln(rate / peak)."""
        return math.log(self.rate_rps / self.peak_rps)

    @property
    def share(self) -> float:
        """Share of all its requests that missed."""
        return float(np.mean(self.missed))

    @property
    def variance(self) -> float:
        """Of ``share``, from the spread of the blocks."""
        return float(np.var(self.missed, ddof=1)) / len(self.missed)


@dataclass(frozen=True)
class Curve:
    """The fitted share over the load, near the load at which it is ``miss``.

    Attributes:
        centre: load at which the intercept is taken.
        coefficients: intercept and slope of logit(share).
        covariance: of the two.
        miss: the share that is allowed.
    """

    centre: float
    coefficients: tuple[float, float]
    covariance: Floats
    miss: float

    @property
    def load(self) -> float:
        """ln(rate / peak) at which the share is ``miss``."""
        intercept, slope = self.coefficients
        return self.centre + (logit(self.miss) - intercept) / slope

    @property
    def error(self) -> float:
        """Standard error of ``load``."""
        intercept, slope = self.coefficients
        gradient = np.array([-1 / slope, -(logit(self.miss) - intercept) / slope**2])
        return math.sqrt(max(float(gradient @ self.covariance @ gradient), 0.0))

    @property
    def interval(self) -> tuple[float, float]:
        """Of ``load``."""
        return self.load - ERRORS * self.error, self.load + ERRORS * self.error

    def shares(self, loads: Floats) -> tuple[Floats, Floats, Floats]:
        """The share at each of ``loads``, and the ends of its interval."""
        design = np.stack([np.ones_like(loads), loads - self.centre], axis=1)
        middle = design @ np.array(self.coefficients)
        spread = ERRORS * np.sqrt(np.einsum("ij,jk,ik->i", design, self.covariance, design))
        low, share, high = (1 / (1 + np.exp(-(middle + k * spread))) for k in (-1, 0, 1))
        return share, low, high


@dataclass
class CapacitySearch:
    """Chooses the loads to probe, and says when the capacity is known well enough.

    Attributes:
        miss: the share of requests that may miss the objective.
        tolerance: largest distance of the interval's ends from the estimate, in ln(load).
    """

    miss: float
    tolerance: float
    probes: list[Probe] = field(default_factory=list)

    @property
    def counted(self) -> list[Probe]:
        """The steady probes where they are at least half of all, else all."""
        steady = [probe for probe in self.probes if probe.steady]
        return self.probes if mostly_unsteady(len(self.probes) - len(steady), len(self.probes)) else steady

    def next_load(self) -> float:
        """Share of the peak to offer next."""
        if not self.probes:
            return FIRST_LOAD
        loads = [probe.load for probe in self.counted]
        curve = self.curve()
        if curve is not None:
            side = STEP if len(self.counted) % 2 else -STEP
            return _bounded(math.exp(curve.load + side))
        held, missed = self._sides()
        if not missed:
            return _bounded(RAISE * math.exp(max(loads)))
        if not held:
            return _bounded(LOWER * math.exp(min(loads)))
        return _bounded(math.exp((max(held) + min(missed)) / 2))

    def curve(self) -> Curve | None:
        """The fit, None while there are too few probes, or while all lie on one side of the objective."""
        return self._curve(self.counted)

    def estimate(self) -> Curve | None:
        """The fit, of all probes where those that are counted have none."""
        return self.curve() or self._curve(self.probes)

    def _curve(self, probes: Sequence[Probe]) -> Curve | None:
        if len({probe.share <= self.miss for probe in probes}) < 2 or len(probes) < FEWEST_PROBES - 1:
            return None
        return fit(probes, self.miss)

    @property
    def resolved(self) -> bool:
        """Whether the interval of the steady probes is narrow enough."""
        counted = self.counted
        if len(counted) < FEWEST_PROBES or not all(probe.steady for probe in counted):
            return False
        curve = self._curve(counted)
        return curve is not None and ERRORS * curve.error <= self.tolerance

    @property
    def above_range(self) -> bool:
        """Whether the objective is held at the highest load."""
        held, missed = self._sides()
        return not missed and len(held) >= 2 and sorted(held)[-2] >= math.log(HIGHEST_LOAD) - STEP

    @property
    def unreachable(self) -> bool:
        """Whether the objective is missed at the lowest load."""
        held, missed = self._sides()
        return not held and bool(missed) and min(missed) <= math.log(LOWEST_LOAD) + STEP

    def _sides(self) -> tuple[list[float], list[float]]:
        """The loads at which the objective was held, and those at which it was missed."""
        held = [probe.load for probe in self.counted if probe.share <= self.miss]
        missed = [probe.load for probe in self.counted if probe.share > self.miss]
        return held, missed


def mostly_unsteady(unsteady: int, probes: int) -> bool:
    """Whether the machine was slow for a moment in more than half of the probes."""
    return 2 * unsteady > probes


def fit(probes: Sequence[Probe], miss: float) -> Curve:
    """The curve through ``probes``, which lie on both sides of ``miss``.

    Quasi-binomial: the weight of a request is divided by the design effect, by which the variance of a share
    exceeds that of independent requests; it is pooled over all probes.
    """
    loads = np.array([probe.load for probe in probes])
    shares = np.array([probe.share for probe in probes])
    weights = np.array([probe.requests for probe in probes]) / design_effect(probes)
    load = float(loads[np.argmin(np.abs(shares - miss))])
    lowest, highest = loads.min() - REACH, min(loads.max() + REACH, math.log(HIGHEST_LOAD))
    for _ in range(4):
        kernel = np.exp(-(((loads - load) / KERNEL_WIDTH) ** 2))
        curve = _logistic(loads, shares, weights * kernel + 1e-6, miss)
        last, load = (
            load,
            float(np.clip(curve.load, lowest, highest)),
        )
        if abs(load - last) < 1e-4:
            break
    return curve


def design_effect(probes: Sequence[Probe]) -> float:
    """How many times the variance of a share exceeds that of as many independent requests; at least 1."""
    informative = [probe for probe in probes if 0 < probe.share < 1]
    independent = sum(probe.share * (1 - probe.share) / probe.requests for probe in informative)
    return max(1.0, sum(probe.variance for probe in informative) / independent) if informative else 50.0


def logit(share: float) -> float:
    """ln(share / (1 - share))."""
    return math.log(share / (1 - share))


def _logistic(loads: Floats, shares: Floats, weights: Floats, miss: float) -> Curve:
    """Weighted logistic regression by Newton's method, with a prior for the slope."""
    centre = float(np.average(loads, weights=weights))
    design = np.stack([np.ones_like(loads), loads - centre], axis=1)
    precision = np.diag([1e-6, 1 / SLOPE_ERROR**2])
    prior = np.array([logit(miss), SLOPE])
    coefficients = prior.copy()
    for _ in range(40):
        expected = 1 / (1 + np.exp(-np.clip(design @ coefficients, -30, 30)))
        information = weights * expected * (1 - expected) + 1e-9
        hessian = design.T @ (design * information[:, None]) + precision
        gradient = design.T @ (weights * (shares - expected)) - precision @ (coefficients - prior)
        step = np.clip(np.linalg.solve(hessian, gradient), -3, 3)
        coefficients = coefficients + step
        if np.abs(step).max() < 1e-6:
            break
    coefficients[1] = max(coefficients[1], 1.0)  # more load never means fewer misses
    return Curve(centre, (float(coefficients[0]), float(coefficients[1])), np.linalg.inv(hessian), miss)


def _bounded(share_of_peak: float) -> float:
    return min(max(share_of_peak, LOWEST_LOAD), HIGHEST_LOAD)
