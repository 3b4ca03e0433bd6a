"""A race: configurations take turns in rounds, and who has lost drops out.

Rates of the same round are compared, as a machine that drifts changes both (``stats.comparison``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from litmeter.stats.comparison import Rates, Ratio, difference, ratio

ROUNDS_BEFORE_LOSING = 4
LOSING_P = 0.02
"""One-sided p value of a paired test against the leader, below which a configuration has lost."""
FAR_BEHIND_ROUNDS, FAR_BEHIND = 2, 0.6
"""Sooner, where it had less than this share of the leader's rate in each round so far."""
EQUAL_WITHIN = 0.03
"""Two are as fast as each other where the logarithm of their ratio lies within this of 0."""


@dataclass
class Race:
    """The rates so far, and who is still in it.

    Attributes:
        names: of all configurations. The first one is the reference: it takes part to the end, so that every
            other one can be compared with it.
        rates: by name, a rate for each round; 0 where it did not answer, None where it took no part.
        lost: by name, the number of rounds after which a configuration had lost.
        barred: those that cannot lead, as they break a constraint.
    """

    names: list[str]
    rates: dict[str, list[float | None]] = field(init=False)
    lost: dict[str, int] = field(default_factory=dict)
    barred: set[str] = field(default_factory=set)
    rounds: int = 0

    def __post_init__(self) -> None:
        self.rates = {name: [] for name in self.names}

    @property
    def reference(self) -> str:
        """See ``names``."""
        return self.names[0]

    @property
    def remaining(self) -> list[str]:
        """Those that have not lost, and may lead."""
        return [name for name in self.names if name not in self.lost and name not in self.barred]

    @property
    def next_turns(self) -> list[str]:
        """Those that the next round measures."""
        return [name for name in self.names if name not in self.lost or name == self.reference]

    @property
    def compared_rounds(self) -> int:
        """Rounds in which the reference took part."""
        return sum(rate is not None for rate in self.rates[self.reference])

    def join(self, names: Sequence[str]) -> None:
        """Let more configurations take part from the next round on."""
        self.names += names
        self.rates |= {name: [None] * self.rounds for name in names}

    def add_round(self, rates: Mapping[str, float | None]) -> None:
        """Add a round."""
        for name in self.names:
            self.rates[name].append(rates.get(name))
        self.rounds += 1

    def drop_losers(self) -> None:
        """Have those lose that are slower than the leader beyond doubt."""
        leader = self.leader()
        if leader is not None:
            losers = [name for name in self.remaining if name != leader and self._has_lost(name, leader)]
            self.lost |= dict.fromkeys(losers, self.rounds)

    def leader(self) -> str | None:
        """Of those that remain, the one with the highest mean rate; None where none of them has answered."""
        answered = self._answered()
        means = {
            name: difference(answered, name, self.reference, self.reference).mean
            for name in self.remaining
            if name in answered
        }
        return max(means, key=lambda name: means[name], default=None)

    def ratio(self, name: str, other: str) -> Ratio | None:
        """The ratio of two rates with its 95% interval; None where one shares no round with the reference."""
        answered = self._answered()
        if name not in answered or other not in answered:
            return None
        return Ratio(1.0, 1.0, 1.0) if name == other else ratio(answered, name, other, self.reference)

    def settled(self) -> bool:
        """Whether more rounds would change nothing: one is left, or all that are left are equally fast."""
        leader = self.leader()
        if leader is None:
            return False
        others = [self.ratio(name, leader) for name in self.remaining if name != leader]
        return all(one is not None and is_equal(one) for one in others)

    def _has_lost(self, name: str, leader: str) -> bool:
        pairs = zip(self.rates[name], self.rates[leader], strict=True)
        shares = [own / best for own, best in pairs if own is not None and best]
        if len(shares) >= FAR_BEHIND_ROUNDS and max(shares) < FAR_BEHIND:
            return True
        answered = self._answered()
        if len(shares) < ROUNDS_BEFORE_LOSING or name not in answered:
            return False
        lead = difference(answered, leader, name, self.reference)
        return lead.mean > 0 and lead.p_value() / 2 < LOSING_P

    def _answered(self) -> Rates:
        """The rates of those that share an answered round with the reference, and its own if it answered."""
        own = self.rates[self.reference]
        return {
            name: rates
            for name, rates in self.rates.items()
            if any(a and b for a, b in zip(rates, own, strict=True))
        }


def is_equal(own: Ratio) -> bool:
    """Whether the interval shows that two rates are as good as equal."""
    if own.low is None or own.high is None:
        return False
    return math.log(own.low) >= -EQUAL_WITHIN and math.log(own.high) <= EQUAL_WITHIN
