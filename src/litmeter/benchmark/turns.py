"""The turns of a comparison so far, and which configurations still take part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from litmeter.stats.comparison import Rates, Ratio, ratio, ratios

DROP_AFTER_ROUNDS, DROP_BELOW, DROP_WIDTH = 16, 0.5, 0.3
"""After so many rounds, a configuration is dropped if the interval of its ratio to the best lies below
DROP_BELOW, and that of its ratio to the reference is no wider than DROP_WIDTH of it."""
FAR_AFTER_ROUNDS, FAR_BELOW = 4, 0.1
"""Sooner, after so many rounds of its own, one is dropped whose mean rate is below FAR_BELOW of the best's
and DROP_BELOW of the reference's: its turns are the longest."""


@dataclass(frozen=True)
class Turn:
    """The measurement of one configuration in one round.

    Attributes:
        rate_rps: good answers per second, None where there was none at all.
        latency_ms: of each good answer that came in the measured time; there may be none.
        failed: requests that were refused, failed or timed out.
        bound_rps: where there was no good answer, what the rate was below.
        pipeline_rps: images per second of the pipeline in-process, right before or after this turn; None
            where it was not measured.
    """

    round: int
    users: int
    name: str
    rate_rps: float | None
    latency_ms: npt.NDArray[np.float64]
    failed: int = 0
    bound_rps: float | None = None
    pipeline_rps: float | None = None

    @property
    def highest_rps(self) -> float:
        """The rate, or what it was below."""
        return self.rate_rps or self.bound_rps or 0.0


@dataclass
class Comparison:
    """The turns so far, and the configurations that are still measured.

    Attributes:
        dropped: configurations that are no longer measured, with the number of rounds by then.
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

    def far_behind(self, users: int) -> dict[str, int]:
        """Those far behind the best at one load so far, with their number of rounds; not the reference."""
        relative = self._relative(users)
        best = self._best(users, relative)
        if best is None:
            return {}
        limit = min(DROP_BELOW, FAR_BELOW * _mean(relative[best]))
        return {
            name: len(shares)
            for name, shares in relative.items()
            if name != self.reference and shares and _mean(shares) < limit
        }

    def _slow_at(self, users: int) -> set[str]:
        """Those that are slow beyond doubt; not those of a later group, who have had no turn."""
        slow = {name for name, rounds in self.far_behind(users).items() if rounds >= FAR_AFTER_ROUNDS}
        relative, all_rates = self._relative(users), self.rates(users)
        best = self._best(users, relative)
        if best is None:
            return slow
        answered = {name: all_rates[name] for name in relative if self._in_common(all_rates, name)}
        to_reference = ratios(answered, self.reference)
        for name in answered.keys() - {self.reference, best}:
            if len(relative[name]) >= DROP_AFTER_ROUNDS and is_narrow(to_reference[name]):
                highest = ratio(answered, name, best, self.reference).high
                if highest is not None and highest < DROP_BELOW:
                    slow.add(name)
        return slow

    def _relative(self, users: int) -> dict[str, list[float]]:
        """Rates over the reference's in each round, or what those were below, of the remaining ones."""
        turns = [turn for turn in self.turns if turn.users == users]
        reference = {turn.round: turn.rate_rps for turn in turns if turn.name == self.reference}
        return {
            name: [
                turn.highest_rps / of_reference
                for turn in turns
                if turn.name == name and (of_reference := reference.get(turn.round))
            ]
            for name in self.remaining
        }

    def _in_common(self, rates: Rates, name: str) -> bool:
        """Whether it answered in a round in which the reference did."""
        return any(own and other for own, other in zip(rates[name], rates[self.reference], strict=True))

    def _best(self, users: int, relative: Mapping[str, Sequence[float]]) -> str | None:
        """The fastest of those that answered in a round in which the reference did."""
        all_rates = self.rates(users)
        means = {name: _mean(shares) for name, shares in relative.items() if self._in_common(all_rates, name)}
        return max(means, key=lambda name: means[name]) if self.reference in means else None


def _mean(shares: Sequence[float]) -> float:
    """The geometric mean; 0 where one of them is."""
    return float(np.exp(np.mean(np.log(shares)))) if all(shares) else 0.0


def is_narrow(own: Ratio) -> bool:
    """Whether the interval of a ratio is no wider than DROP_WIDTH of it."""
    return own.low is not None and own.high is not None and own.high - own.low <= DROP_WIDTH * own.ratio
