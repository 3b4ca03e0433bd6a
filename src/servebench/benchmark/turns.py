"""The turns of a comparison so far, and which configurations still take part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from servebench.stats.comparison import Ratio, ratio, ratios

DROP_AFTER_ROUNDS, DROP_BELOW, DROP_WIDTH = 16, 0.5, 0.3
"""A configuration whose interval lies below half of the best's rate is dropped, to spend the time on the
others; but not while the interval of its ratio to the reference is wider than this share of it."""
DROP_FAR_BELOW = {1: 0.05, 2: 0.1}
"""Sooner, by the number of rounds: where it was below this share of the best's rate, and below DROP_BELOW
of the reference's, in each of two rounds, or in the mean of more. Its turns are the longest: ten seconds
and more."""
SMALLEST_SHARE = 1e-3
"""What a round without an answer counts as."""


@dataclass(frozen=True)
class Turn:
    """The measurement of one configuration in one round.

    Attributes:
        rate_rps: good answers per second, None where there was none.
        latency_ms: of each good answer.
        failed: requests that were refused, failed or timed out.
    """

    round: int
    users: int
    name: str
    rate_rps: float | None
    latency_ms: npt.NDArray[np.float64]
    failed: int = 0


@dataclass
class Comparison:
    """The turns so far, and the configurations that are still measured.

    Attributes:
        dropped: configurations that are no longer measured, with the round after which they were dropped.
    """

    reference: str
    names: Sequence[str]
    turns: list[Turn] = field(default_factory=list)
    dropped: dict[str, int] = field(default_factory=dict)

    @property
    def remaining(self) -> list[str]:
        """The configurations that the next round measures."""
        return [name for name in self.names if name not in self.dropped]

    def rates(self, users: int) -> dict[str, list[float | None]]:
        """The rate in each round at one load, by configuration."""
        rounds = sorted({turn.round for turn in self.turns if turn.users == users})
        rate_rps = {(turn.name, turn.round): turn.rate_rps for turn in self.turns if turn.users == users}
        return {name: [rate_rps.get((name, number)) for number in rounds] for name in self.names}

    def latencies(self) -> dict[tuple[int, str], list[npt.NDArray[np.float64]]]:
        """The latencies of each turn, ms, by users and configuration."""
        latencies: dict[tuple[int, str], list[npt.NDArray[np.float64]]] = {}
        for turn in self.turns:
            latencies.setdefault((turn.users, turn.name), []).append(turn.latency_ms)
        return latencies

    def fastest_so_far(self, users: int) -> str:
        """The three fastest configurations and their mean rates, as text for the progress bar."""
        answered = {name: [rate for rate in rates if rate] for name, rates in self.rates(users).items()}
        means = {name: np.mean(rates) for name, rates in answered.items() if rates}
        fastest = sorted(means, key=lambda name: means[name], reverse=True)[:3]
        ranking = ", ".join(f"{name} {means[name]:.0f}" for name in fastest)
        return f"; fastest so far: {ranking} req/s" if ranking else ""

    def drop_slow(self, loads: Sequence[int]) -> None:
        """Drop the configurations that are slow beyond doubt at each number of users of ``loads``."""
        rounds = 1 + max(turn.round for turn in self.turns if turn.users in loads)
        for name in set.intersection(*(self._slow_at(users) for users in loads)):
            self.dropped[name] = rounds

    def _slow_at(self, users: int) -> set[str]:
        """Those that are slow beyond doubt; not those of a later group, who have had no turn."""
        relative = {name: self._relative_to_reference(name, users) for name in self.remaining}
        all_rates = self.rates(users)
        rates = {name: all_rates[name] for name, shares in relative.items() if any(shares)}
        if self.reference not in rates:
            return set()
        to_reference = ratios(rates, self.reference)
        best = max(to_reference, key=lambda name: to_reference[name].ratio)
        slow = set()
        for name, shares in relative.items():
            if name in (self.reference, best) or not shares:
                continue
            share_of_best = DROP_FAR_BELOW.get(min(len(shares), max(DROP_FAR_BELOW)), 0.0)
            if far_below(shares) < min(DROP_BELOW, share_of_best * to_reference[best].ratio):
                slow.add(name)
            elif len(shares) >= DROP_AFTER_ROUNDS and name in rates:
                highest = ratio(rates, name, best, self.reference).high
                if highest is not None and highest < DROP_BELOW and is_narrow(to_reference[name]):
                    slow.add(name)
        return slow

    def _relative_to_reference(self, name: str, users: int) -> list[float]:
        """Its rate over the reference's in each of its rounds, 0 where it did not answer."""
        turns = [turn for turn in self.turns if turn.users == users]
        reference = {turn.round: turn.rate_rps for turn in turns if turn.name == self.reference}
        return [
            (turn.rate_rps or 0.0) / of_reference
            for turn in turns
            if turn.name == name and (of_reference := reference.get(turn.round))
        ]


def far_below(shares: Sequence[float]) -> float:
    """The largest of two shares; the geometric mean of more, as one of them may have been lucky."""
    if len(shares) <= max(DROP_FAR_BELOW):
        return max(shares)
    return float(np.exp(np.mean(np.log(np.maximum(shares, SMALLEST_SHARE)))))


def is_narrow(own: Ratio) -> bool:
    """Whether the interval of a ratio is no wider than DROP_WIDTH of it."""
    return own.low is not None and own.high is not None and own.high - own.low <= DROP_WIDTH * own.ratio
