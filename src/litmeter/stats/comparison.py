"""Comparison of rates measured in rounds: ratios with simultaneous intervals, and ranks with ties.

A machine that slows down for minutes slows down all that is measured in a round, so logarithms of rates are
compared within rounds. Every second round has the reverse order of the one before it, so that a steady drift
cancels.

A handful of rounds says little about the noise of one configuration, but several together say how large it
usually is. So each variance is moderated by the usual one, which counts as much as MODERATION more rounds, or
blocks of them (Smyth 2004, doi:10.2202/1544-6115.1027, with fixed degrees of freedom). In simulations of
configurations whose noise differs by a factor of up to 6 (tests/unit/test_comparison.py, 400 runs each), the
intervals hold all true ratios in 96 to 98% of runs; with four rounds they are 0.71 to 0.76 times as wide as
by Student's t alone.

A machine's state lasts longer than a round, and moves some configurations more than others: in ten
comparisons of 28 rounds, log ratios of neighbouring rounds were correlated by up to 0.7, in the median by
0.5. So variances are those of the means of blocks of rounds. In simulations with a correlation of 0.5 the
intervals of 28 rounds then hold all true ratios in 93% of runs, and in 70% where rounds count as independent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import digamma, stdtr, stdtrit

Floats = npt.NDArray[np.float64]
Rates = Mapping[str, Sequence[float | None]]
"""By name, the rate in each round; None or 0 where it was not measured, or answered nothing."""

FAMILY_ERROR = 0.05
"""Chance that any interval of a comparison misses the true ratio, or that any test of one rank errs."""

MODERATION = 2.0
"""Degrees of freedom of the usual variance. With 4, the same simulations hold all in 94 to 97% of runs."""
FEWEST_VARIANCES = 3
"""To say what is usual."""
MORE, MANY_MORE = 2, 4
"""Times as many rounds as a configuration had: others that had more do not say what is usual for it. The
second from BLOCKS_FROM_ROUNDS on, as it was hardly dropped for being far behind then."""

BLOCKS, BLOCKS_FROM_ROUNDS = 7, 8
"""From so many rounds on, blocks of them: 4 to 10, and about BLOCKS where there are many rounds."""


@dataclass(frozen=True)
class Difference:
    """A mean difference of logarithms of rates.

    Attributes:
        error: standard error, None where there are too few rounds.
        freedom: degrees of freedom of ``error``.
    """

    mean: float
    error: float | None
    freedom: float

    def p_value(self) -> float:
        """Two-sided p value of a mean of 0; 1 without a standard error."""
        if self.error is None:
            return 1.0
        if self.error == 0:
            return 0.0 if self.mean else 1.0
        return float(2 * stdtr(self.freedom, -abs(self.mean) / self.error))


@dataclass(frozen=True)
class Ratio:
    """A ratio of rates with its interval; without one where there are too few rounds."""

    ratio: float
    low: float | None
    high: float | None

    @property
    def resolved(self) -> bool:
        """Whether the interval excludes 1."""
        return self.low is not None and self.high is not None and not self.low <= 1 <= self.high


def difference(rates: Rates, name: str, other: str, reference: str) -> Difference:
    """Mean log ratio of ``name`` over ``other``, within rounds; through the reference if they share none.

    Raises:
        ValueError: the two share no round, and not both share one with the reference.
    """
    if _rounds_of_both(rates, name, other):
        return _paired_difference(rates, name, other, reference)
    if not all(_rounds_of_both(rates, key, reference) for key in (name, other)):
        raise ValueError(f"{name} and {other} share no round, and not both share one with {reference}")
    a, b = (_paired_difference(rates, key, reference, reference) for key in (name, other))
    if a.error is None or b.error is None:
        return Difference(a.mean - b.mean, None, 0)
    variance = a.error**2 + b.error**2
    denominator = a.error**4 / a.freedom + b.error**4 / b.freedom  # Welch and Satterthwaite
    freedom = variance**2 / denominator if denominator else a.freedom + b.freedom
    return Difference(a.mean - b.mean, math.sqrt(variance), freedom)


def _paired_difference(rates: Rates, name: str, other: str, reference: str) -> Difference:
    """Mean log ratio of ``name`` over ``other`` in the rounds of both, of which there is one at least."""
    rounds = _rounds_of_both(rates, name, other)
    return _mean(_log_ratios(rates, name, other, rounds), usual_variance(rates, reference, rounds))


def usual_variance(rates: Rates, reference: str, rounds: Sequence[int]) -> float | None:
    """The typical variance of a log ratio to ``reference`` in ``rounds``; None below FEWEST_VARIANCES.

    Those who ran in at least half of these rounds count with these, so that a variance stays as it is while
    others go on; the rest count with their own rounds, from half to twice as many. Those with MORE (or
    MANY_MORE) times as many rounds in all are left out: who has so few is far behind, and noisier. It is the
    geometric mean, corrected for the bias of the logarithm of a variance of few rounds.
    """
    terms, count = [], len(rounds)
    most = (MANY_MORE if count >= BLOCKS_FROM_ROUNDS else MORE) * count
    for name in rates:
        if name == reference:
            continue
        own = _rounds_of_both(rates, name, reference)
        common = sorted(set(own).intersection(rounds))
        alike = common if 2 * len(common) >= count else own
        if len(alike) < 2 or len(own) > most or not count <= 2 * len(alike) <= 4 * count:
            continue
        variance, freedom = _long_run_variance(_log_ratios(rates, name, reference, alike))
        if variance > 0:
            terms.append(math.log(variance) - digamma(freedom / 2) + math.log(freedom / 2))
    return math.exp(sum(terms) / len(terms)) if len(terms) >= FEWEST_VARIANCES else None


def ratio(rates: Rates, name: str, other: str, reference: str, error: float = FAMILY_ERROR) -> Ratio:
    """The geometric mean of ``name`` over ``other``, with a moderated t interval.

    Args:
        error: chance that the interval misses the true ratio.
    """
    log = difference(rates, name, other, reference)
    if log.error is None:
        return Ratio(math.exp(log.mean), None, None)
    spread = float(stdtrit(log.freedom, 1 - error / 2)) * log.error
    return Ratio(math.exp(log.mean), math.exp(log.mean - spread), math.exp(log.mean + spread))


def ratios(rates: Rates, reference: str) -> dict[str, Ratio]:
    """The ratio of each to ``reference``, with simultaneous 95% intervals; the reference's is 1."""
    others = [name for name in rates if name != reference]
    error = simultaneous(len(others))
    return {
        name: Ratio(1.0, 1.0, 1.0) if name == reference else ratio(rates, name, reference, reference, error)
        for name in rates
    }


def simultaneous(intervals: int) -> float:
    """The error of each of so many intervals, of which any misses with FAMILY_ERROR at most (Sidak)."""
    return float(1 - (1 - FAMILY_ERROR) ** (1 / max(1, intervals)))


def ranks(rates: Rates, reference: str) -> dict[str, int]:
    """Ranks: 1 for the fastest and all that do not differ from it, then the fastest of the others, and so on.

    Each group's members are compared with its fastest by paired, moderated t tests. They are two-sided, as of
    two equal ones the one with luck is the fastest. Who is faster than it in the rounds that both share (it
    leads by others) is no slower. Bonferroni's method, step by step, holds the error of a group's tests at
    FAMILY_ERROR: of equal ones the luckiest is compared with the least lucky, so each pair of them counts.
    """
    means = {
        name: 0.0 if name == reference else difference(rates, name, reference, reference).mean
        for name in rates
    }
    unranked = sorted(rates, key=lambda name: means[name], reverse=True)
    rank_of: dict[str, int] = {}
    while unranked:
        leader, *others = unranked
        slower = _slower_than(rates, leader, others, reference)
        group = [leader, *(name for name in others if name not in slower)]
        rank_of |= dict.fromkeys(group, len(rank_of) + 1)
        unranked = [name for name in unranked if name in slower]
    return rank_of


def _slower_than(rates: Rates, leader: str, others: Sequence[str], reference: str) -> set[str]:
    """Those of ``others`` that are slower than ``leader``."""
    leads = {name: difference(rates, leader, name, reference) for name in others}
    p_values = {name: lead.p_value() if lead.mean > 0 else 1.0 for name, lead in leads.items()}
    slower: set[str] = set()
    for name in sorted(others, key=lambda name: p_values[name]):
        pairs = math.comb(1 + len(others) - len(slower), 2)
        if p_values[name] > FAMILY_ERROR / pairs:
            break
        slower.add(name)
    return slower


def _rounds_of_both(rates: Rates, name: str, other: str) -> list[int]:
    """The rounds in which both answered."""
    pairs = zip(rates[name], rates[other], strict=True)
    return [number for number, (a, b) in enumerate(pairs) if a and b]


def _log_ratios(rates: Rates, name: str, other: str, rounds: Sequence[int]) -> Floats:
    """Of ``name`` over ``other`` in ``rounds``, in which both answered."""
    own, others = (np.array([rates[key][number] for number in rounds], dtype=float) for key in (name, other))
    logs: Floats = np.log(own / others)
    return logs


def _long_run_variance(logs: Floats) -> tuple[float, float]:
    """Variance of a log ratio that its mean's error is made of, and the degrees of freedom.

    Neighbouring rounds are alike, as a machine's state lasts longer than a round. So it is the variance of
    the means of blocks of rounds, times a block's length.
    """
    edges = block_edges(len(logs))
    means = np.add.reduceat(logs, edges[:-1]) / np.diff(edges)
    count = len(means)
    return len(logs) / count * float(means.var(ddof=1)), count - 1.0


def block_length(rounds: int) -> int:
    """Rounds in a block: an even number, as every second round has the reverse order; 1 for few rounds."""
    return 1 if rounds < BLOCKS_FROM_ROUNDS else 2 * max(1, round(rounds / (2 * BLOCKS)))


def block_edges(rounds: int) -> npt.NDArray[np.int64]:
    """Where blocks of about equal length begin, and the last one's end.

    No pair of rounds is split where none is missing, and earlier runs or groups had an even number.
    """
    length = block_length(rounds)
    edges = np.linspace(0, rounds, rounds // length + 1).astype(np.int64)
    if length > 1:
        edges[1:-1] -= edges[1:-1] % 2
    return edges


def _mean(logs: Floats, usual: float | None) -> Difference:
    """The mean of log ratios.

    Args:
        usual: variance of a log ratio; None does without it.
    """
    if len(logs) < 2:
        return Difference(float(logs.mean()), None, 0)
    variance, freedom = _long_run_variance(logs)
    if usual is not None:
        variance = (MODERATION * usual + freedom * variance) / (MODERATION + freedom)
        freedom += MODERATION
    return Difference(float(logs.mean()), math.sqrt(variance / len(logs)), freedom)
