"""Comparison of rates measured in rounds: ratios with simultaneous intervals, and ranks with ties.

A machine that slows down for minutes slows down all that is measured in a round, so logarithms of rates are
compared within rounds. Every second round has the reverse order of the one before it, so that a steady drift
cancels.

A handful of rounds says little about the noise of one configuration. So each variance is moderated by the
usual one of its like, with fixed degrees of freedom (Smyth 2004, doi:10.2202/1544-6115.1027). Alike are those
that take turns about as often: who pauses in between is slow, and its few batches of answers are noisier.
Where noise differs by a factor of up to 6, the intervals hold all true ratios in 95 to 97% of simulated runs
(tests/unit/test_comparison.py).

A machine's state lasts longer than a round: log ratios of neighbouring rounds were correlated by 0.5 in the
median. So variances are those of the means of blocks of rounds. In simulations with such a correlation the
intervals of 28 rounds hold all true ratios in 90% of runs, in 70% where rounds count as independent.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import digamma, stdtr, stdtrit

from litmeter.stats.rates import percentile
from litmeter.stats.records import Floats, joined

Rates = Mapping[str, Sequence[float | None]]
"""By name, the rate in each round; None or 0 where it was not measured, or answered nothing."""

FAMILY_ERROR = 0.05
"""Chance that any interval of a comparison misses the true ratio, or that any test of one rank errs."""

MODERATION, OF_PAUSING, OF_OTHERS = 3.0, 12.0, 0.5
"""Degrees of freedom of the usual variance, at most: of those that take a turn in each round, and of those
that pause, whose noise is alike; and as a share of those that others than the one in question contribute."""
ALIKE = 1.5
"""Configurations whose shares of rounds differ by no more than this factor have a common variance."""
BLOCKS = 10
"""Blocks of rounds, at most; of one round each where there are fewer."""
EQUAL = 0.03
"""A ratio within this of 1 is that of equals."""
FEWEST_RUNS = 3
"""For an interval over runs."""


@dataclass(frozen=True)
class Difference:
    """A mean difference of logarithms of rates; its standard error is None where there are too few rounds."""

    mean: float
    error: float | None
    freedom: float

    def p_value(self) -> float:
        """Two-sided p value of a mean of 0; 1 without a standard error."""
        if not self.error:
            return 0.0 if self.mean and self.error == 0 else 1.0
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

    def overlaps(self, other: Ratio) -> bool:
        """Whether the two intervals have a value in common; one that is not known has all."""
        ends = ((one.low, one.high) for one in (self, other))
        (low, high), (other_low, other_high) = (
            (-math.inf if low is None else low, math.inf if high is None else high) for low, high in ends
        )
        return low <= other_high and other_low <= high

    @property
    def equal(self) -> bool:
        """Whether the whole interval is that of equals."""
        low, high = self.low, self.high
        return low is not None and high is not None and 1 - EQUAL <= low <= high <= 1 + EQUAL


def comparable(rates: Rates, name: str, other: str, reference: str) -> bool:
    """Whether two share a round, or each shares one with the reference; not where the rates of one lack."""
    if _rounds_of_both(rates, name, other):
        return True
    return all(_rounds_of_both(rates, key, reference) for key in (name, other))


def difference(rates: Rates, name: str, other: str, reference: str) -> Difference:
    """Mean log ratio of ``name`` over ``other``, within rounds; through the reference if they share none.

    Raise ValueError where they do not both share a round with that, either.
    """
    if _rounds_of_both(rates, name, other):
        return _paired_difference(rates, name, other)
    if not comparable(rates, name, other, reference):
        raise ValueError(f"{name} and {other} share no round, and not both share one with {reference}")
    a, b = (_paired_difference(rates, key, reference) for key in (name, other))
    if a.error is None or b.error is None:
        return Difference(a.mean - b.mean, None, 0)
    variance = a.error**2 + b.error**2
    denominator = a.error**4 / a.freedom + b.error**4 / b.freedom  # Welch and Satterthwaite
    freedom = variance**2 / denominator if denominator else a.freedom + b.freedom
    return Difference(a.mean - b.mean, math.sqrt(variance), freedom)


def _paired_difference(rates: Rates, name: str, other: str) -> Difference:
    logs = _log_ratios(rates, name, other, _rounds_of_both(rates, name, other))
    mean = float(logs.mean())
    if len(logs) < 2:
        return Difference(mean, None, 0)
    variance, freedom = _long_run_variance(logs)
    usual, others = _usual_variance(rates, name, other)
    most = OF_PAUSING if _often(rates, name) < 1 / ALIKE else MODERATION
    weight = min(most, OF_OTHERS * others)
    variance = (weight * usual + freedom * variance) / (weight + freedom)
    return Difference(mean, math.sqrt(variance / len(logs)), freedom + weight)


def _usual_variance(rates: Rates, name: str, other: str) -> tuple[float, float]:
    """Typical variance of log ratios of ``name`` and its like to ``other``; the others' degrees of freedom.

    Those who ran in at least half of the rounds of ``name`` count with these, so that a variance stays as it
    is while others go on; the rest count with their own rounds, from half to twice as many. One that is noisy
    changes the geometric mean little, which is corrected for the bias of the logarithm of few rounds.
    """
    rounds = _rounds_of_both(rates, name, other)
    often, logs, others = _often(rates, name), [], 0.0
    for like in rates:
        if like == other or not often / ALIKE <= _often(rates, like) <= often * ALIKE:
            continue
        own = _rounds_of_both(rates, like, other)
        common = sorted(set(own).intersection(rounds))
        alike = common if 2 * len(common) >= len(rounds) else own
        if len(alike) < 2 or not len(rounds) <= 2 * len(alike) <= 4 * len(rounds):
            continue
        variance, freedom = _long_run_variance(_log_ratios(rates, like, other, alike))
        if variance > 0:
            logs.append(math.log(variance) - digamma(freedom / 2) + math.log(freedom / 2))
            others += 0.0 if like == name else freedom
    return (math.exp(sum(logs) / len(logs)) if logs else 0.0), others


def _often(rates: Rates, name: str) -> float:
    # Share of the rounds from its first to its last in which it answered.
    answered = [number for number, rate in enumerate(rates[name]) if rate]
    return len(answered) / (1 + answered[-1] - answered[0]) if answered else 0.0


def ratio(rates: Rates, name: str, other: str, reference: str, error: float = FAMILY_ERROR) -> Ratio:
    """The geometric mean of ``name`` over ``other``, with a moderated t interval that misses by ``error``."""
    log = difference(rates, name, other, reference)
    if log.error is None:
        return Ratio(math.exp(log.mean), None, None)
    spread = float(stdtrit(log.freedom, 1 - error / 2)) * log.error
    return Ratio(math.exp(log.mean), math.exp(log.mean - spread), math.exp(log.mean + spread))


def ratios(rates: Rates, other: str, reference: str | None = None) -> dict[str, Ratio]:
    """The ratio of each to ``other``, with simultaneous 95% intervals; that of ``other`` itself is 1.

    ``reference`` compares those that share no round with ``other``.
    """
    error = simultaneous(len(rates) - 1)
    return {
        name: Ratio(1.0, 1.0, 1.0) if name == other else ratio(rates, name, other, reference or other, error)
        for name in rates
    }


def percentile_ratio(
    latencies: Sequence[Floats], others: Sequence[Floats], percent: int, error: float = FAMILY_ERROR
) -> Ratio | None:
    """Ratio of a percentile of all latencies to that of others; None where there are too few for it.

    In each block of rounds, the share of latencies above their percentile less that of the others above
    theirs says what moved one alone. The ends of its mean's interval, by Student's t, are read off as
    percentiles of both together, each over its own percentile. It holds 1 in 92 to 97% of simulated twins.

    Args:
        latencies, others: of each round, of the same rounds.
    """
    pooled = [joined(latencies), joined(others)]
    whole, of_others = (percentile(own, percent) for own in pooled)
    if whole is None or of_others is None:
        return None
    shares = []
    for begin, end in itertools.pairwise(block_edges(len(latencies))):
        own, other = np.concatenate(latencies[begin:end]), np.concatenate(others[begin:end])
        if len(own) and len(other):
            shares.append(float((own > whole).mean() - (other > of_others).mean()))
    if len(shares) < 2:
        return Ratio(whole / of_others, None, None)
    quantile = float(stdtrit(len(shares) - 1, 1 - error / 2))
    spread = 100 * quantile * float(np.std(shares, ddof=1)) / math.sqrt(len(shares))
    scaled = np.concatenate([pooled[0] / whole, pooled[1] / of_others])
    low, high = np.percentile(scaled, np.clip([percent - spread, percent + spread], 0, 100))
    factor = math.sqrt(high / low)
    return Ratio(whole / of_others, whole / of_others / factor, whole / of_others * factor)


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
    means = {name: difference(rates, name, reference, reference).mean for name in rates}
    unranked = sorted(rates, key=means.__getitem__, reverse=True)
    rank_of: dict[str, int] = {}
    while unranked:
        leader, *others = unranked
        slower = _slower_than(rates, leader, others, reference)
        group = [leader, *(name for name in others if name not in slower)]
        rank_of |= dict.fromkeys(group, len(rank_of) + 1)
        unranked = [name for name in unranked if name in slower]
    return rank_of


def _slower_than(rates: Rates, leader: str, others: Sequence[str], reference: str) -> set[str]:
    behind = {name: difference(rates, name, leader, reference) for name in others}
    p_values = {name: lag.p_value() if lag.mean < 0 else 1.0 for name, lag in behind.items()}
    slower: set[str] = set()
    for name in sorted(others, key=p_values.__getitem__):
        pairs = math.comb(1 + len(others) - len(slower), 2)
        if p_values[name] > FAMILY_ERROR / pairs:
            break
        slower.add(name)
    return slower


def _rounds_of_both(rates: Rates, name: str, other: str) -> list[int]:
    if not {name, other} <= rates.keys():
        return []
    pairs = zip(rates[name], rates[other], strict=True)
    return [number for number, (a, b) in enumerate(pairs) if a and b]


def _log_ratios(rates: Rates, name: str, other: str, rounds: Sequence[int]) -> Floats:
    own, others = (np.array([rates[key][number] for number in rounds], dtype=float) for key in (name, other))
    logs: Floats = np.log(own / others)
    return logs


def _long_run_variance(logs: Floats) -> tuple[float, float]:
    """Variance of the means of blocks, each times its block's length, and its degrees of freedom."""
    edges = block_edges(len(logs))
    lengths = np.diff(edges)
    means = np.add.reduceat(logs, edges[:-1]) / lengths
    freedom = len(means) - 1.0
    return float(np.sum(lengths * (means - logs.mean()) ** 2)) / freedom, freedom


def block_edges(rounds: int) -> npt.NDArray[np.int64]:
    """Where blocks of about equal length begin, and the last one's end: BLOCKS, or as many as rounds."""
    return np.linspace(0, rounds, min(rounds, BLOCKS) + 1).round().astype(np.int64)


def over_runs(runs: Sequence[Ratio]) -> Ratio | None:
    """Mean ratio of several runs, with a 95% interval for what other hours may bring; None below FEWEST_RUNS.

    Runs are random effects: their variance is that of DerSimonian and Laird (1986,
    doi:10.1016/0197-2456(86)90046-2), the interval that of Hartung and Knapp (2001, doi:10.1002/sim.791).
    The runs' intervals count as two standard errors to either side; wider ones change their weights alone.
    """
    known = [(run.ratio, run.low, run.high) for run in runs if run.low is not None and run.high is not None]
    if len(known) < FEWEST_RUNS:
        return None
    logs, lows, highs = np.log(known).T
    errors = np.maximum((highs - lows) / 4, 1e-6)
    weights, freedom = errors**-2.0, len(known) - 1
    excess = float(np.sum(weights * (logs - np.average(logs, weights=weights)) ** 2)) - freedom
    between = max(0.0, excess / float(weights.sum() - (weights**2).sum() / weights.sum()))
    weights = 1 / (errors**2 + between)
    mean = float(np.average(logs, weights=weights))
    variance = float(np.average((logs - mean) ** 2, weights=weights)) / freedom
    spread = float(stdtrit(freedom, 1 - FAMILY_ERROR / 2)) * math.sqrt(variance)
    return Ratio(math.exp(mean), math.exp(mean - spread), math.exp(mean + spread))
