"""The race: configurations are served at once and take turns in rounds, and who has lost drops out.

Rates of the same round are compared, as a machine that drifts changes both (``stats.comparison``).
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean, pstdev

import numpy as np

from litmeter.errors import ServerError
from litmeter.load import LoadPlan
from litmeter.measure.figures import latencies_ms
from litmeter.measure.turn import Sample, Schedule, Turn, measure, serve
from litmeter.params import ServeSettings, TuneSettings
from litmeter.stats.comparison import Rates, Ratio, difference, ratio
from litmeter.stats.rates import percentile
from litmeter.stats.records import Floats, joined
from litmeter.tune.space import name_of

FEWEST_ROUNDS = 4
"""Before anybody is compared, however short the time."""
LOSING_P = 0.02
"""One-sided p value of a paired test against the leader, below which a configuration is eliminated."""
FAR_BEHIND_ROUNDS, FAR_BEHIND = 2, 0.6
"""Sooner, where it had less than this share of the leader's rate in each round so far."""
NEIGHBOURS_EVERY, NEIGHBOURS_ROUNDS = 4, 6
"""Every so many rounds the leader's neighbours join, as many as have time for so many rounds."""
FAR_LATE = 90
"""Percentile that is above the limit of the p95 where that is missed beyond doubt."""


@dataclass
class Racer:
    """A configuration in the race.

    Attributes:
        agreement: share of the photos with the label of full precision.
        rates: of each round; 0 where it did not answer, None where it took no part.
        latencies_ms: of the good answers of each of its turns.
        memory_mib: of the server's processes, after a turn.
        failed: requests that were refused, failed or timed out.
        constraint_violation: the constraint that it does not keep to, empty where it keeps to all.
    """

    settings: ServeSettings
    predicted_rps: float
    agreement: float
    rates: list[float | None] = field(default_factory=list)
    latencies_ms: list[Floats] = field(default_factory=list)
    memory_mib: float | None = None
    failed: int = 0
    constraint_violation: str = ""
    eliminated_after_rounds: int | None = None

    @property
    def name(self) -> str:
        """The values of all knobs."""
        return name_of(self.settings)

    @property
    def rounds(self) -> int:
        """Number of rounds in which it took part."""
        return sum(rate is not None for rate in self.rates)

    @property
    def out_of_memory(self) -> bool:
        """Whether it has never been served, as memory had no room for it."""
        return not self.rounds and not self.constraint_violation

    def latency_ms(self, percent: float) -> float | None:
        """A percentile over all of its turns; None where too few answers came."""
        return percentile(joined(self.latencies_ms), percent)

    def add(self, sample: Sample) -> None:
        """Count its turn in the present round."""
        row = sample.row
        self.rates[-1] = row.rate_rps or 0.0
        self.memory_mib = max(self.memory_mib or 0.0, row.memory_mib or 0.0) or None
        self.failed += row.failed + row.timed_out
        if sample.record is not None:
            self.latencies_ms.append(latencies_ms(sample.record))


@dataclass
class Race:
    """Who is in the race, and what was measured so far.

    Attributes:
        limits: the constraints.
        racers: by name. The first one is the reference: it takes part to the end, for every comparison.
        leader: who has the highest mean rate of those that remain; None where none of them has answered.
    """

    limits: TuneSettings
    racers: dict[str, Racer] = field(default_factory=dict)
    rounds: int = 0
    leader: str | None = None

    @property
    def reference(self) -> str:
        """The one that all others are compared with."""
        return next(iter(self.racers))

    @property
    def next_turns(self) -> list[str]:
        """Those that the next round measures, if memory has room for them."""
        left = {name for name, one in self.racers.items() if one.eliminated_after_rounds is not None}
        return [name for name in self.racers if name not in left or name == self.reference]

    @property
    def remaining(self) -> list[str]:
        """Those that may lead: neither eliminated nor breaking a constraint."""
        return [
            name
            for name, one in self.racers.items()
            if one.eliminated_after_rounds is None and not one.constraint_violation
        ]

    def join(self, racers: Sequence[Racer]) -> None:
        """Let more configurations take part from the next round on."""
        for racer in racers:
            racer.rates = [None] * self.rounds
            self.racers[racer.name] = racer
            self._judge(racer)

    def run_round(self, order: Sequence[str], plan: LoadPlan) -> Schedule[float]:
        """Measure a round, and eliminate who is slower than the leader beyond doubt.

        Returns:
            The time at its end.

        Raises:
            ServerError: the reference does not answer.
        """
        for racer in self.racers.values():
            racer.rates.append(None)
        note = self.standing()
        for name in order:
            load = replace(plan, repeat=self.rounds)
            sample = yield from measure(Turn(name, load, self.rounds, note=note))
            self.racers[name].add(sample)
            ended_s = sample.ended_s
        self.rounds += 1
        for name in order:
            self._judge(self.racers[name])
        if self.rounds >= FEWEST_ROUNDS and not any(self.racers[self.reference].rates):
            raise ServerError("serve: does not answer; all others are compared with it")
        answered = self._answered()
        means = {
            name: difference(answered, name, self.reference, self.reference).mean
            for name in self.remaining
            if name in answered
        }
        self.leader = leader = max(means, key=means.__getitem__, default=None)
        for name in self.remaining:
            if leader is not None and name != leader and self._has_lost(name, leader, answered):
                self.racers[name].eliminated_after_rounds = self.rounds
        return ended_s

    def ratio(self, name: str, other: str) -> Ratio | None:
        """The ratio of two rates with its 95% interval; None where one shares no round with the reference."""
        answered = self._answered()
        if not {name, other} <= answered.keys():
            return None
        return Ratio(1.0, 1.0, 1.0) if name == other else ratio(answered, name, other, self.reference)

    def over_leader(self, name: str) -> Ratio | None:
        """The ratio of a rate to the leader's."""
        return self.ratio(name, self.leader) if self.leader else None

    def settled(self) -> bool:
        """Whether more rounds would change nothing: all that are left, and are served, are equally fast."""
        served = [name for name in self.remaining if not self.racers[name].out_of_memory]
        ratios = [self.over_leader(name) for name in served]
        return bool(self.leader) and all(own is not None and own.equal for own in ratios)

    def standing(self) -> str:
        """Who leads, and how many remain."""
        if self.leader is None:
            return "nobody leads"
        mean_rps = fmean(rate for rate in self.racers[self.leader].rates if rate)
        return f"{len(self.remaining)} of {len(self.racers)} left, {self.leader} leads, {mean_rps:.0f}/s"

    def prediction_error(self) -> float:
        """Standard deviation of ln(measured / predicted) over all that answered.

        So what is wrong by the same factor everywhere does not count: it changes no order.
        """
        logs = [
            math.log(own.ratio / racer.predicted_rps)
            for name, racer in self.racers.items()
            if (own := self.ratio(name, self.reference))
        ]
        return pstdev(logs) if len(logs) > 1 else 0.0

    def _has_lost(self, name: str, leader: str, answered: Rates) -> bool:
        pairs = zip(self.racers[name].rates, self.racers[leader].rates, strict=True)
        shares = [own / best for own, best in pairs if own is not None and best]
        if len(shares) >= FAR_BEHIND_ROUNDS and max(shares) < FAR_BEHIND:
            return True
        if len(shares) < FEWEST_ROUNDS or name not in answered:
            return False
        lead = difference(answered, leader, name, self.reference)
        return lead.mean > 0 and lead.p_value() / 2 < LOSING_P

    def _answered(self) -> Rates:
        # Of those that share an answered round with the reference, itself among them if it answered.
        own = self.racers[self.reference].rates
        return {
            name: racer.rates
            for name, racer in self.racers.items()
            if any(a and b for a, b in zip(racer.rates, own, strict=True))
        }

    def _judge(self, racer: Racer) -> None:
        """Note whether a racer breaks a constraint; it is eliminated where that is for good."""
        limits, memory_mib, p95_ms = self.limits, racer.memory_mib, racer.latency_ms(95)
        violation, for_good = "", True
        if racer.agreement < limits.min_agreement:
            violation = too_little(racer.agreement, limits.min_agreement)
        elif limits.max_memory_mib and memory_mib and memory_mib > limits.max_memory_mib:
            violation = f"{memory_mib:.0f} MiB, more than max_memory_mib"
        elif limits.max_p95_ms and p95_ms and p95_ms > limits.max_p95_ms:
            violation = f"p95 {p95_ms:.0f} ms, more than max_p95_ms"
            late_ms = float(np.percentile(joined(racer.latencies_ms), FAR_LATE))
            for_good = racer.rounds >= FEWEST_ROUNDS and late_ms > limits.max_p95_ms
        racer.constraint_violation = violation
        if violation and for_good and racer.eliminated_after_rounds is None:
            racer.eliminated_after_rounds = self.rounds


def race(
    racing: Race, plan: LoadPlan, until_s: float, neighbours: Callable[[ServeSettings], Sequence[Racer]]
) -> Schedule[None]:
    """Run rounds until all that remain are equally fast, or time is up.

    Args:
        plan: the load of a turn.
        until_s: seconds since the log's begin.
        neighbours: who differs from a configuration by one key, the best first; they race once it leads.

    Raises:
        ServerError: the reference does not answer, or memory has no room for it.
    """
    rng, order = random.Random(racing.limits.seed), list[str]()
    alone = yield from serve([racing.reference])
    serving = yield from serve(racing.next_turns)
    start_s = (serving.at_s - alone.at_s) / max(1, len(serving.names) - 1)
    now_s = serving.at_s
    while True:
        if racing.reference not in serving.names:
            raise ServerError("serve: cannot be served; all others are compared with it")
        present = [name for name in racing.next_turns if name in serving.names]
        if racing.rounds % 2:
            order = [name for name in reversed(order) if name in present]
            order += [name for name in present if name not in order]
        else:
            order = rng.sample(present, len(present))
        began_s, now_s = now_s, (yield from racing.run_round(order, plan))
        round_s, leader = now_s - began_s, racing.leader
        if racing.rounds >= FEWEST_ROUNDS:
            if leader is None or now_s + round_s > until_s:
                return
            settled = racing.settled()
            if settled or not racing.rounds % NEIGHBOURS_EVERY:
                spare_s = until_s - now_s - NEIGHBOURS_ROUNDS * round_s
                count = spare_s / (start_s + NEIGHBOURS_ROUNDS * round_s / len(order))
                near = neighbours(racing.racers[leader].settings)
                new = [one for one in near if one.name not in racing.racers][: max(0, int(count))]
                if settled and not new:
                    return
                racing.join(new)
        if set(racing.next_turns) != set(order):
            serving = yield from serve(racing.next_turns)
            now_s = serving.at_s


def too_little(agreement: float, min_agreement: float) -> str:
    """Why a configuration does not race or win whose answers differ from those of full precision."""
    return f"{agreement:.1%} of the labels as in full precision, less than {min_agreement:.4g}"
