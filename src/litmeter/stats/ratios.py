"""Comparison of rates measured in rounds: ratios with simultaneous intervals, and ranks with ties.

A machine that slows down for minutes slows down whole rounds, so logarithms of rates are compared within
rounds. Every second round reverses the order of turns, so that a steady drift cancels.

A handful of rounds says little about one configuration's noise. So each variance is moderated by the usual
variance of similar configurations, with fixed degrees of freedom (Smyth 2004, doi:10.2202/1544-6115.1027).
Configurations are similar if they take turns about equally often: slow configurations pause in some rounds,
and their few batches of answers are noisier. For noise that differs by a factor of up to 6, the intervals
hold all true ratios in 95 to 97% of simulated runs (tests/unit/test_comparison.py).

A machine's state outlasts a round: log ratios of neighbouring rounds had a median correlation of 0.5. So
variances are computed from the means of blocks of rounds. With this correlation, simulated intervals of 28
rounds hold all true ratios in 90% of runs; with rounds taken as independent, in 70%.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import digamma, stdtr, stdtrit

from litmeter.stats.rates import percentile
from litmeter.stats.records import Floats, joined

Rates = Mapping[str, Sequence[float | None]]
"""By name, the rate in each round; None or 0: not measured, or nothing answered."""

FAMILY_ERROR = 0.05
"""Chance that any interval of a comparison misses the true ratio, or that any test of one rank errs."""

MODERATION, OF_PAUSING, OF_OTHERS = 3.0, 12.0, 0.5
"""Most degrees of freedom of the usual variance: for configurations in every round; for configurations that
pause, whose noise is similar; and as a share of the degrees of freedom of the other configurations."""
START_DEVIATION = 0.01
"""Standard deviation of the logarithm of a server's rate from start to start."""
ALIKE = 1.5
"""Configurations are similar if their shares of rounds differ at most by this factor."""
BLOCKS = 10
"""Most blocks of rounds; with fewer rounds, each is a block."""
EQUAL = 0.03
"""A ratio this near to 1 means equality."""
FEWEST_RUNS = 3
"""Fewest runs for an interval over runs."""


@dataclass(frozen=True)
class Difference:
    """A mean difference of logarithms of rates; no standard error with too few rounds."""

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
    """A ratio of rates and its interval, if there are enough rounds."""

    ratio: float
    low: float | None
    high: float | None

    @property
    def resolved(self) -> bool:
        """Whether the interval excludes 1."""
        return self.low is not None and self.high is not None and not self.low <= 1 <= self.high

    def overlaps(self, other: Ratio) -> bool:
        """Whether the two intervals have a common value; an unknown interval overlaps everything."""
        if self.low is None or self.high is None or other.low is None or other.high is None:
            return True
        return self.low <= other.high and other.low <= self.high

    @property
    def equal(self) -> bool:
        """Whether the whole interval means equality."""
        low, high = self.low, self.high
        return low is not None and high is not None and 1 - EQUAL <= low <= high <= 1 + EQUAL


def comparable(rates: Rates, name: str, other: str, reference: str) -> bool:
    """Whether two configurations share a round, or both share a round with the reference."""
    if rounds_of_both(rates, name, other):
        return True
    return all(rounds_of_both(rates, key, reference) for key in (name, other))


def difference(
    rates: Rates, name: str, other: str, reference: str, starts: Sequence[int] | None = None
) -> Difference:
    """Mean log ratio of ``name`` over ``other`` within rounds; through ``reference`` if they share no round.

    Args:
        starts: of two that are restarted, the first round after each start. The rounds of a start are a
            block, and few starts are moderated by START_DEVIATION.

    Raises:
        ValueError: the two are not ``comparable``.
    """
    if rounds_of_both(rates, name, other):
        return _paired_difference(rates, name, other, starts)
    if not comparable(rates, name, other, reference):
        raise ValueError(f"{name} and {other} share no round, and not both share one with {reference}")
    a, b = (_paired_difference(rates, key, reference) for key in (name, other))
    if a.error is None or b.error is None:
        return Difference(a.mean - b.mean, None, 0)
    variance = a.error**2 + b.error**2
    denominator = a.error**4 / a.freedom + b.error**4 / b.freedom  # Welch and Satterthwaite
    freedom = variance**2 / denominator if denominator else a.freedom + b.freedom
    return Difference(a.mean - b.mean, math.sqrt(variance), freedom)


def _paired_difference(
    rates: Rates, name: str, other: str, starts: Sequence[int] | None = None
) -> Difference:
    rounds = rounds_of_both(rates, name, other)
    logs = _log_ratios(rates, name, other, rounds)
    mean = float(logs.mean())
    if len(logs) < 2:
        return Difference(mean, None, 0)
    variance, freedom = _long_run_variance(logs, block_edges(rounds))
    if starts is None:
        usual, others = _usual_variance(rates, name, other)
        most = OF_PAUSING if _often(rates, name) < 1 / ALIKE else MODERATION
        weight = min(most, OF_OTHERS * others)
    else:
        edges, weight = block_edges(rounds, starts), MODERATION
        usual = variance + 2 * START_DEVIATION**2 * len(logs) / (len(edges) - 1)
        variance, freedom = _long_run_variance(logs, edges)
    variance = (weight * usual + freedom * variance) / (weight + freedom)
    return Difference(mean, math.sqrt(variance / len(logs)), freedom + weight)


def _usual_variance(rates: Rates, name: str, other: str) -> tuple[float, float]:
    """Usual variance of log ratios to ``other`` among configurations like ``name``; degrees of freedom.

    Configurations that ran in at least half of the rounds of ``name`` count with the common rounds, so that
    later rounds of others change nothing; other configurations count with all their rounds, if these are half
    to twice as many. The mean is geometric, so that a noisy configuration changes it little, and corrected
    for the bias of the logarithm of few rounds. The degrees of freedom are those of all but ``name``.
    """
    rounds = rounds_of_both(rates, name, other)
    often, logs, others = _often(rates, name), [], 0.0
    for like in rates:
        if like == other or not often / ALIKE <= _often(rates, like) <= often * ALIKE:
            continue
        own = rounds_of_both(rates, like, other)
        common = sorted(set(own).intersection(rounds))
        alike = common if 2 * len(common) >= len(rounds) else own
        if len(alike) < 2 or not len(rounds) <= 2 * len(alike) <= 4 * len(rounds):
            continue
        variance, freedom = _long_run_variance(_log_ratios(rates, like, other, alike), block_edges(alike))
        if variance > 0:
            logs.append(math.log(variance) - digamma(freedom / 2) + math.log(freedom / 2))
            others += 0.0 if like == name else freedom
    return (math.exp(sum(logs) / len(logs)) if logs else 0.0), others


def _often(rates: Rates, name: str) -> float:
    """Share of rounds with an answer, between the first and the last round with an answer."""
    answered = [number for number, rate in enumerate(rates[name]) if rate]
    return len(answered) / (1 + answered[-1] - answered[0]) if answered else 0.0


def ratio(
    rates: Rates,
    name: str,
    other: str,
    reference: str,
    error: float = FAMILY_ERROR,
    starts: Sequence[int] | None = None,
) -> Ratio:
    """Geometric mean of ``name`` over ``other``; the moderated t interval misses with chance ``error``."""
    if name == other:
        return Ratio(1.0, 1.0, 1.0)
    log = difference(rates, name, other, reference, starts)
    if log.error is None:
        return Ratio(math.exp(log.mean), None, None)
    spread = float(stdtrit(log.freedom, 1 - error / 2)) * log.error
    return Ratio(math.exp(log.mean), math.exp(log.mean - spread), math.exp(log.mean + spread))


def ratios(rates: Rates, other: str, reference: str | None = None) -> dict[str, Ratio]:
    """Each configuration's ratio to ``other``, with simultaneous 95% intervals; 1 for ``other`` itself.

    Configurations that share no round with ``other`` are compared through ``reference``.
    """
    error = simultaneous(len(rates) - 1)
    return {name: ratio(rates, name, other, reference or other, error) for name in rates}


def percentile_ratio(
    latencies: Mapping[int, Floats],
    others: Mapping[int, Floats],
    percent: int,
    error: float = FAMILY_ERROR,
    starts: Sequence[int] | None = None,
) -> Ratio | None:
    """Ratio of a percentile of ``latencies`` to that of ``others``; None with too few latencies.

    In each block of rounds, take the share of latencies above their overall percentile, less the same share
    of the others: this difference shows what moved one side alone. The ends of the t interval of its mean are
    converted to percentiles of all latencies, each divided by its side's percentile. The interval holds 1 for
    92 to 97% of simulated twins.

    Args:
        latencies, others: by round; rounds of both count.
        starts: see ``difference``.
    """
    rounds = sorted(latencies.keys() & others.keys())
    pooled = [joined([side[number] for number in rounds]) for side in (latencies, others)]
    whole, of_others = (percentile(side, percent) for side in pooled)
    if whole is None or of_others is None:
        return None
    shares = []
    for begin, end in itertools.pairwise(block_edges(rounds, starts)):
        own, other = (joined([side[one] for one in rounds[begin:end]]) for side in (latencies, others))
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
    """Error of each of several intervals such that any misses with chance FAMILY_ERROR at most (Sidak)."""
    return float(1 - (1 - FAMILY_ERROR) ** (1 / max(1, intervals)))


def ranks(rates: Rates, reference: str) -> dict[str, int]:
    """Ranks: 1 for the fastest and all that do not differ from it, then the same for the rest, and so on.

    Paired, moderated t tests compare each configuration with the fastest. The tests are two-sided, because of
    two equal configurations the luckier is the fastest. A configuration that is ahead of the fastest in their
    common rounds is not slower. Step-down Bonferroni holds the error of a rank's tests at FAMILY_ERROR: of
    equal configurations the luckiest is compared with the unluckiest, so every pair counts. Rank 1 includes
    all whose interval of ``ratios`` to the fastest holds 1.
    """
    means = {name: difference(rates, name, reference, reference).mean for name in rates}
    unranked = sorted(rates, key=means.__getitem__, reverse=True)
    rank_of: dict[str, int] = {}
    while unranked:
        leader, *others = unranked
        slower = _slower_than(rates, leader, others, reference)
        if not rank_of:
            leads = ratios(rates, leader, reference)
            slower = {name for name in slower if leads[name].resolved}
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


def rounds_of_both(rates: Rates, name: str, other: str) -> list[int]:
    """The rounds in which both have a rate."""
    if not {name, other} <= rates.keys():
        return []
    pairs = zip(rates[name], rates[other], strict=True)
    return [number for number, (a, b) in enumerate(pairs) if a and b]


def _log_ratios(rates: Rates, name: str, other: str, rounds: Sequence[int]) -> Floats:
    own, others = (np.array([rates[key][number] for number in rounds], dtype=float) for key in (name, other))
    logs: Floats = np.log(own / others)
    return logs


def _long_run_variance(logs: Floats, edges: npt.NDArray[np.int64]) -> tuple[float, float]:
    """Variance of block means, each weighted with its block's length, and the degrees of freedom."""
    lengths = np.diff(edges)
    means = np.add.reduceat(logs, edges[:-1]) / lengths
    freedom = len(means) - 1.0
    return float(np.sum(lengths * (means - logs.mean()) ** 2)) / max(freedom, 1.0), freedom


def block_edges(rounds: Sequence[Any], starts: Sequence[int] | None = None) -> npt.NDArray[np.int64]:
    """Edges of up to BLOCKS blocks of about equal length, at least one round each; or of the rounds by start.

    Args:
        rounds: in order; numbers of rounds where there are ``starts``, the first rounds of blocks.
    """
    count = len(rounds)
    if starts is not None:
        return np.unique([*np.searchsorted(np.asarray(rounds), starts), count]).astype(np.int64)
    return np.linspace(0, count, min(count, BLOCKS) + 1).round().astype(np.int64)


def over_runs(runs: Sequence[Ratio]) -> Ratio | None:
    """Mean ratio of several runs, with a 95% interval that covers other hours; None below FEWEST_RUNS.

    Random effects: the variance between runs by DerSimonian and Laird (1986,
    doi:10.1016/0197-2456(86)90046-2), the interval by Hartung and Knapp (2001, doi:10.1002/sim.791), with
    their variance at least that of the weighted mean: runs that agree by chance do not make it narrower
    (Röver et al. 2015, doi:10.1186/s12874-015-0091-1). Each run's interval is taken as two standard errors
    to either side. In simulations of 3 to 12 runs it holds the truth in 95 to 100%.
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
    variance = max(variance, 1 / float(weights.sum()))
    spread = float(stdtrit(freedom, 1 - FAMILY_ERROR / 2)) * math.sqrt(variance)
    return Ratio(math.exp(mean), math.exp(mean - spread), math.exp(mean + spread))
