"""The race: configurations are served at once and take turns in rounds, and who has lost drops out.

Rates of the same round are compared, as a machine that drifts changes both (``stats.comparison``).
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from statistics import fmean, median, pstdev
from time import monotonic

from litmeter.errors import ServerError
from litmeter.load import LoadGenerator
from litmeter.measure.comparison import TURN_S, PausedServer, paused_servers
from litmeter.params import LoadSettings, ServeSettings, TuneSettings
from litmeter.paths import ModelFolders
from litmeter.stats.comparison import Rates, Ratio, difference, ratio
from litmeter.stats.rates import percentile
from litmeter.system.processes import memory_alone
from litmeter.system.progress import bar, print_wrapped
from litmeter.tune.record import Record, Round
from litmeter.tune.space import name_of

ROUNDS_BEFORE_LOSING = 4
LOSING_P = 0.02
"""One-sided p value of a paired test against the leader, below which a configuration has lost."""
FAR_BEHIND_ROUNDS, FAR_BEHIND = 2, 0.6
"""Sooner, where it had less than this share of the leader's rate in each round so far."""
EQUAL_WITHIN = 0.03
"""Two are as fast as each other where the logarithm of their ratio lies within this of 0."""
FEWEST_ROUNDS = 4
"""However short the time: with fewer nothing is compared."""
WORST_ERROR, ROUNDS_TO_JUDGE = 0.2, 3
"""If the predictions turn out worse than this, after so many rounds, more configurations join."""
MIB = 2**20


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


@dataclass
class Racer:
    """A configuration in the race.

    Attributes:
        agreement: share of the photos with the label of full precision.
        memory_mib: of the server's processes, after a turn; None before.
        p95_by_round: latencies, ms.
        failed: requests that were refused, failed or timed out.
        broken: the constraint that it does not keep to, empty where it keeps to all.
    """

    settings: ServeSettings
    predicted_rps: float
    agreement: float
    memory_mib: float | None = None
    p95_by_round: list[float] = field(default_factory=list)
    failed: int = 0
    broken: str = ""

    @property
    def name(self) -> str:
        """It says the settings."""
        return name_of(self.settings)

    @property
    def p95_ms(self) -> float | None:
        """Median over its turns, None where it has not answered."""
        return median(self.p95_by_round) if self.p95_by_round else None


@dataclass
class RaceTrack:
    """A race of real servers.

    Attributes:
        deadline: on the monotonic clock.
        racers: those that have entered, by name, the reference first.
        unserved: names of those for which there was no memory.
    """

    tune: TuneSettings
    load: LoadSettings
    folders: ModelFolders
    device: str
    generator: LoadGenerator
    record: Record
    deadline: float
    racers: dict[str, Racer] = field(default_factory=dict)
    unserved: list[str] = field(default_factory=list)
    race: Race = field(default_factory=lambda: Race([]))
    _servers: dict[str, PausedServer] = field(default_factory=dict)
    _last_round_s: float = 0.0

    def run(self, first: Sequence[Racer], more: Sequence[Racer]) -> None:
        """Race ``first``, of which the first is the reference; ``more`` join if predictions turn out bad.

        Rounds that are on record count, and are not run again.

        Raises:
            ServerError: a server did not start, or died, or the reference does not answer; LoadError: the
                load generator failed.
        """
        kept = self.record.rounds()
        known = {name for one in kept for name in one.rates}
        self._enter([*first, *(one for one in more if one.name in known)])
        for one in kept:
            self._count(one)
        began, second = monotonic(), False
        rng = random.Random(f"{self.tune.seed}/{self.race.rounds}")
        order: list[str] = []
        with ExitStack() as stack, bar(round(max(0.0, self.deadline - began)), "race", "s") as progress:
            while not self._finished():
                waiting = [one for one in more if one.name not in self.racers]
                if (
                    waiting
                    and self.race.compared_rounds >= ROUNDS_TO_JUDGE
                    and self.model_error() > WORST_ERROR
                ):
                    print_wrapped(
                        f"   predictions are off by {self.model_error():.0%}: more configurations race"
                    )
                    self._enter(waiting)
                    second = False
                self._start(stack)
                names = self.race.next_turns
                order = order[::-1] if second else rng.sample(names, len(names))
                second = not second
                one = self._run_round([name for name in order if name in names])
                self.record.keep_round(one)
                self._count(one)
                progress.set_postfix_str(f"round {self.race.rounds}, {self.standing()}")
                progress.update(round(monotonic() - began) - progress.n)
                if not set(names) <= set(self.race.next_turns):
                    print_wrapped(f"   round {self.race.rounds}: {self.standing()}")

    def standing(self) -> str:
        """Who leads, and how many have not lost."""
        leader = self.race.leader()
        if leader is None:
            return "nobody leads"
        mean_rps = fmean(rate for rate in self.race.rates[leader] if rate)
        return f"{len(self.race.remaining)} of {len(self.racers)} left, {leader} leads, {mean_rps:.0f}/s"

    def model_error(self) -> float:
        """Standard deviation of ln(measured / predicted), both over the reference's, over all that answered.

        So what is wrong by the same factor everywhere does not count: it changes no order.
        """
        reference = self.racers[self.race.reference]
        logs = [
            math.log(own.ratio / (racer.predicted_rps / reference.predicted_rps))
            for name, racer in self.racers.items()
            if (own := self.race.ratio(name, self.race.reference))
        ]
        return pstdev(logs) if len(logs) > 1 else 0.0

    def _enter(self, racers: Sequence[Racer]) -> None:
        self.racers |= {racer.name: racer for racer in racers}
        self.race.join([racer.name for racer in racers])
        for racer in racers:
            self._judge(racer)

    def _start(self, stack: ExitStack) -> None:
        """Start the servers that the next round needs, as many as memory allows."""
        names = [name for name in self.race.next_turns if name not in self._servers]
        configurations = {name: self.racers[name].settings for name in names}
        if not names:
            return
        group = stack.enter_context(
            paused_servers(names, configurations, self.folders, self.device, self.load.timeout_s)
        )
        self._servers |= {server.name: server for server in group}
        self.unserved += [name for name in names if name not in self._servers]
        self.race.lost |= dict.fromkeys(self.unserved, self.race.rounds)

    def _finished(self) -> bool:
        if self.race.compared_rounds < FEWEST_ROUNDS:
            return False
        if self.race.leader() is None:
            return True
        return self.race.settled() or monotonic() + self._last_round_s > self.deadline

    def _run_round(self, order: Sequence[str]) -> Round:
        started = monotonic()
        turns = [
            self._servers[name].take_turn(
                self.generator, self.load, self.race.rounds, self.tune.users, TURN_S
            )
            for name in order
        ]
        p95_ms = {turn.name: percentile(turn.latency_ms, 95) for turn in turns if len(turn.latency_ms)}
        self._last_round_s = monotonic() - started
        return Round(
            rates={turn.name: turn.rate_rps or 0.0 for turn in turns},
            p95_ms={name: ms for name, ms in p95_ms.items() if ms is not None},
            memory_mib={name: memory_alone(self._servers[name].pid) / MIB for name in order},
            failed={turn.name: turn.failed for turn in turns},
            seconds=self._last_round_s,
        )

    def _count(self, one: Round) -> None:
        """Count a round: first who breaks a constraint, then who has lost to the best of the others."""
        before = set(self.race.lost)
        self.race.add_round(one.rates)
        for name in one.rates:
            racer = self.racers.get(name)
            if racer is not None:
                racer.memory_mib = max(racer.memory_mib or 0.0, one.memory_mib[name])
                racer.failed += one.failed[name]
                racer.p95_by_round += [one.p95_ms[name]] if name in one.p95_ms else []
                self._judge(racer)
        if self.race.compared_rounds >= FEWEST_ROUNDS and not any(self.race.rates[self.race.reference]):
            raise ServerError("serve: does not answer; all others are compared with it")
        self.race.drop_losers()
        for name in set(self.race.lost) - before - {self.race.reference}:
            if name in self._servers:
                self._servers.pop(name).kill()

    def _judge(self, racer: Racer) -> None:
        """Bar a racer that breaks a constraint; it loses where it has never kept to it."""
        racer.broken, hopeless = self._broken(racer)
        if racer.broken:
            self.race.barred.add(racer.name)
        else:
            self.race.barred.discard(racer.name)
        if hopeless:
            self.race.lost.setdefault(racer.name, self.race.rounds)

    def _broken(self, racer: Racer) -> tuple[str, bool]:
        """The constraint that a racer breaks, empty where it keeps to all; and whether it always has."""
        limits = self.tune
        if racer.agreement < limits.min_agreement:
            return too_little(racer.agreement, limits.min_agreement), True
        if limits.max_memory_mib and racer.memory_mib and racer.memory_mib > limits.max_memory_mib:
            return f"{racer.memory_mib:.0f} MiB, more than max_memory_mib", True
        if limits.max_p95_ms and racer.p95_ms and racer.p95_ms > limits.max_p95_ms:
            rounds = racer.p95_by_round
            hopeless = len(rounds) >= FEWEST_ROUNDS and min(rounds) > limits.max_p95_ms
            return f"p95 {racer.p95_ms:.0f} ms, more than max_p95_ms", hopeless
        return "", False


def too_little(agreement: float, min_agreement: float) -> str:
    """Why a configuration does not race or win whose answers differ from those of full precision."""
    return f"{agreement:.1%} of the labels as in full precision, less than {min_agreement:.4g}"
