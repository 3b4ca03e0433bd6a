"""Several things measured in turn, in rounds: ratios with simultaneous intervals, and ranks with ties.

A machine whose speed changes for minutes changes it for all that is measured in the same round, so logarithms
of rates are compared within rounds. Every second round has the reverse order of the one before it: a steady
drift cancels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import stdtr, stdtrit

Floats = npt.NDArray[np.float64]
Rates = Mapping[str, Sequence[float | None]]
"""By name, the rate in each round, positive; None where it was not measured in that round."""

FAMILY_ERROR = 0.05
"""Chance that any interval of one comparison misses its truth, or that any order claimed in it is wrong."""


@dataclass(frozen=True)
class Difference:
    """A mean difference of logarithms of rates.

    Attributes:
        error: its standard error, None where there are too few rounds to tell.
        freedom: degrees of freedom of that.
    """

    mean: float
    error: float | None
    freedom: float

    def p_value(self) -> float:
        """Two-sided p that the mean is 0; 1 where it cannot be told."""
        if self.error is None:
            return 1.0
        if self.error == 0:
            return 0.0 if self.mean else 1.0
        return float(2 * stdtr(self.freedom, -abs(self.mean) / self.error))


@dataclass(frozen=True)
class Ratio:
    """A ratio of rates with its interval; without one where there are too few rounds to tell."""

    ratio: float
    low: float | None
    high: float | None

    @property
    def resolved(self) -> bool:
        """Whether the interval tells which of the two is faster."""
        return self.low is not None and self.high is not None and not self.low <= 1 <= self.high


def difference(rates: Rates, name: str, other: str, reference: str) -> Difference:
    """Log of ``name`` over ``other``: within rounds, or by way of the reference where they share none.

    Raises:
        ValueError: there is no round of the two, nor of each with the reference.
    """
    logs = _log_ratios(rates, name, other)
    if len(logs) > 1:
        return _mean(logs)
    if len(logs) == 1:
        return Difference(float(logs[0]), None, 0)
    first, second = (_log_ratios(rates, one, reference) for one in (name, other))
    if not len(first) or not len(second):
        raise ValueError(f"{name} and {other} share no round, and not both share one with {reference}")
    a, b = _mean(first), _mean(second)
    if a.error is None or b.error is None:
        return Difference(a.mean - b.mean, None, 0)
    variance = a.error**2 + b.error**2
    parts = a.error**4 / a.freedom + b.error**4 / b.freedom  # Welch and Satterthwaite
    freedom = variance**2 / parts if parts else a.freedom + b.freedom
    return Difference(a.mean - b.mean, math.sqrt(variance), freedom)


def ratio(rates: Rates, name: str, other: str, reference: str, error: float = FAMILY_ERROR) -> Ratio:
    """The geometric mean of ``name`` over ``other``, with Student's t.

    Args:
        error: chance that the interval misses the truth.
    """
    found = difference(rates, name, other, reference)
    if found.error is None:
        return Ratio(math.exp(found.mean), None, None)
    half = float(stdtrit(found.freedom, 1 - error / 2)) * found.error
    return Ratio(math.exp(found.mean), math.exp(found.mean - half), math.exp(found.mean + half))


def ratios(rates: Rates, reference: str) -> dict[str, Ratio]:
    """Each over ``reference``; the intervals hold all together with 95% (Sidak). The reference has 1."""
    others = [name for name in rates if name != reference]
    error = 1 - (1 - FAMILY_ERROR) ** (1 / max(1, len(others)))
    return {
        name: Ratio(1.0, 1.0, 1.0) if name == reference else ratio(rates, name, reference, reference, error)
        for name in rates
    }


def ranks(rates: Rates, reference: str) -> dict[str, int]:
    """1 for the fastest and all that cannot be told from it; then the fastest of the rest, and so on.

    Whether one is slower than the fastest of its group is a paired t test, two-sided, as of two equals the
    luckier one leads; Holm's method holds the errors of a group's tests at 5%.
    """
    found = {name: difference(rates, name, reference, reference) for name in rates if name != reference}
    means = {reference: 0.0} | {name: one.mean for name, one in found.items()}
    rest = sorted(rates, key=lambda name: means[name], reverse=True)
    placed: dict[str, int] = {}
    while rest:
        leader, *others = rest
        slower = _slower_than(rates, leader, others, reference)
        group = [leader, *(name for name in others if name not in slower)]
        placed |= dict.fromkeys(group, len(placed) + 1)
        rest = [name for name in rest if name in slower]
    return placed


def _slower_than(rates: Rates, leader: str, others: Sequence[str], reference: str) -> set[str]:
    """Of ``others``, those that are slower than ``leader`` by Holm's method."""
    p_values = {name: difference(rates, leader, name, reference).p_value() for name in others}
    slower: set[str] = set()
    for name in sorted(others, key=lambda name: p_values[name]):
        if p_values[name] > FAMILY_ERROR / (len(others) - len(slower)):
            break
        slower.add(name)
    return slower


def _log_ratios(rates: Rates, name: str, other: str) -> Floats:
    pairs = zip(rates[name], rates[other], strict=True)
    return np.array([math.log(a / b) for a, b in pairs if a is not None and b is not None])


def _mean(logs: Floats) -> Difference:
    if len(logs) < 2:
        return Difference(float(logs.mean()), None, 0)
    return Difference(float(logs.mean()), float(logs.std(ddof=1)) / math.sqrt(len(logs)), len(logs) - 1)
