"""The whole search, a schedule of the one loop: a race of ``serve``, its neighbours, and theirs.

The section ``serve`` begins alone. Every third round some neighbours of the leader join; a neighbour has
another value of one knob. All racers are served at once and take short turns in rounds. Rates are compared
within rounds, because a machine that drifts changes all of them (``stats.ratios``). After each round the
racers that are slower than the leader are eliminated. When every neighbour of the leader, and of racers that
came near it, has raced, others join, as knobs interact: those first whose values were fastest one by one. The
race ends when all that remain are equally fast and none is left that may be faster; or when time is up. Then
the winner and ``serve`` alone take turns: by these rounds the winner was not chosen.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from math import inf, prod
from statistics import fmean, geometric_mean
from typing import Any

from litmeter.errors import LitmeterError, ServerError
from litmeter.kinds.configuration import Configuration, TuneSettings
from litmeter.load import LoadPlan
from litmeter.load.settings import LoadSettings
from litmeter.measure.capacity import CapacityMetrics, capacity
from litmeter.measure.comparison_rows import in_columns, rate_alone
from litmeter.measure.figures import latencies_ms
from litmeter.measure.rounds import Pace, turn_plan
from litmeter.measure.turn import Sample, Schedule, Turn, make_ready, measure
from litmeter.params import ObjectiveSettings
from litmeter.say.progress import print_wrapped
from litmeter.stats.rates import percentile
from litmeter.stats.ratios import Rates, Ratio, difference, ratio, rounds_of_both
from litmeter.stats.records import Floats, joined
from litmeter.system.files import rounded
from litmeter.tune.rows import KnobRow, Status, TuneRow
from litmeter.tune.space import Space, changed_knobs, knob_values, neighbours

TUNE_PACE = Pace(turn_s=0.3)
"""Short turns leave time for many configurations."""
FEWEST_ROUNDS = 4
"""Rounds of a race, however short the time, and of a racer before a p value eliminates it."""
LOSING_P = 0.02
"""A racer is eliminated where a paired test against the leader has a one-sided p value below this."""
FAR_BEHIND_ROUNDS, FAR_BEHIND = 2, 0.8
"""After so many rounds it is, too, if its rate was below this share of the leader's in each of them."""
JOIN_EVERY, JOIN_MOST, JOIN_ROUNDS = 3, 6, 6
"""All neighbours of the reference join after its first round, then every JOIN_EVERY rounds JOIN_MOST of the
leader's at most; but only as many as there is time for JOIN_ROUNDS with them."""
NOT_RACED = "surely slower by the values that raced, or no time for it"
NEAR = 0.9
"""Where all neighbours of the leader have raced, those of racers with this share of its rate join."""
SURELY_SLOWER = 0.5
"""A configuration does not join whose values predict less than this share of the leader's rate, each by what
it brought alone."""
MORE_WORKERS = 4
"""Beyond twice the cores, at most so many times as many workers as have been served: they take memory."""
FRESH_SHARE = 1 / 10
"""Share of the time for rounds of the winner and ``serve`` alone."""
FAR_LATE = 90
"""A limit of the p95 is missed beyond doubt where even this percentile is above it."""
CAPACITIES, CAPACITIES_SHARE = 3, 1 / 2
"""By goal capacity: the number of finalists whose capacity is measured, in this share of the time at most."""
CHEAPER_FROM = 0.95
"""A cheaper one wins where the interval of its rate over the leader's reaches no further down."""
MEMORY_STEP_MIB = 50.0
"""Smaller differences of memory do not count."""


@dataclass
class Racer:
    """A configuration in the race.

    Attributes:
        agreement: share of the answers that stay those of full precision; None where that is not known.
        rates: of each round, by which racers are compared: requests, or tokens or bytes of streams, a second;
            0 where it did not answer, None where it took no part.
        requests_rps: of each turn with an answer.
        latencies_ms: of the good answers of each of its turns.
        server_cores: cores that its processes used, of each turn.
        failed: requests that were refused, failed or timed out.
        constraint_violation: the constraint that it violates, or empty.
    """

    settings: Configuration
    agreement: float | None
    rates: list[float | None] = field(default_factory=list)
    requests_rps: list[float] = field(default_factory=list)
    latencies_ms: list[Floats] = field(default_factory=list)
    server_cores: list[float] = field(default_factory=list)
    memory_mib: float | None = None
    failed: int = 0
    constraint_violation: str = ""
    eliminated_after_rounds: int | None = None

    @property
    def name(self) -> str:
        """The values of all knobs."""
        return self.settings.search_name

    @property
    def rounds(self) -> int:
        """Number of rounds in which it took part."""
        return sum(rate is not None for rate in self.rates)

    @property
    def out_of_memory(self) -> bool:
        """Whether it has never been served, because memory had no room for it."""
        return not self.rounds and not self.constraint_violation

    def latency_ms(self, percent: float) -> float | None:
        """A percentile over all of its turns; None where too few answers came."""
        return percentile(joined(self.latencies_ms), percent)

    def add(self, sample: Sample) -> None:
        """Count its turn in the present round."""
        row = sample.row
        self.rates[-1] = rate_alone(row) if row.rate_rps else 0.0
        self.requests_rps += [row.rate_rps] if row.rate_rps else []
        self.server_cores += [] if row.server_cores is None else [row.server_cores]
        self.memory_mib = max(self.memory_mib or 0.0, row.memory_mib or 0.0) or None
        self.failed += row.failed + row.timed_out
        if sample.record is not None:
            self.latencies_ms.append(latencies_ms(sample.record))


@dataclass
class Race:
    """The racers, and what was measured so far.

    Attributes:
        limits: the constraints.
        racers: by name. The first one is the reference: it takes part to the end, for every comparison.
        leader: name of the remaining racer with the highest mean rate; None where none has answered.
    """

    limits: TuneSettings
    racers: dict[str, Racer] = field(default_factory=dict)
    rounds: int = 0
    leader: str | None = None

    @property
    def reference(self) -> str:
        """The racer that all others are compared with."""
        return next(iter(self.racers))

    @property
    def next_turns(self) -> list[str]:
        """The racers that the next round measures, if memory has room for them."""
        racers = self.racers.items()
        return [name for name, one in racers if one.eliminated_after_rounds is None or name == self.reference]

    @property
    def remaining(self) -> list[str]:
        """The racers that may lead: neither eliminated nor violating a constraint."""
        return [
            name
            for name, one in self.racers.items()
            if one.eliminated_after_rounds is None and not one.constraint_violation
        ]

    def join(self, racers: Iterable[Racer]) -> None:
        """Let more configurations take part from the next round on."""
        for racer in racers:
            racer.rates = [None] * self.rounds
            self.racers[racer.name] = racer
            self._judge(racer)

    def run_round(self, order: Sequence[str], plan: LoadPlan) -> Schedule[float]:
        """Measure a round, and eliminate the racers that have lost; return when it ended.

        Raise ServerError where the reference does not answer.
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
        if (own := self.racers[self.reference]).rounds >= FEWEST_ROUNDS and not any(own.rates):
            raise ServerError("serve: does not answer; all others are compared with it")
        answered, reference = self._answered(), self.reference
        may_lead = [name for name in self.remaining if name in answered]
        means = {name: difference(answered, name, reference, reference).mean for name in may_lead}
        self.leader = leader = max(means, key=means.__getitem__, default=None)
        for name in self.remaining:
            if leader is not None and name != leader and self._has_lost(name, leader, answered):
                self.racers[name].eliminated_after_rounds = self.rounds
        return ended_s

    def ratio(self, name: str, other: str) -> Ratio | None:
        """The ratio of two rates with its 95% interval; None where one shares no round with the reference."""
        answered = self._answered()
        known = {name, other} <= answered.keys()
        return ratio(answered, name, other, self.reference) if known else None

    def over_leader(self, name: str) -> Ratio | None:
        """The ratio of a rate to the leader's."""
        return self.ratio(name, self.leader) if self.leader else None

    def by_rate(self, names: Iterable[str]) -> dict[str, Ratio]:
        """The racers whose rate is known, with their rate over the leader's, the highest first."""
        ratios = [(name, own) for name in names if (own := self.over_leader(name))]
        return dict(sorted(ratios, key=lambda pair: -pair[1].ratio))

    def centres(self) -> Iterator[Configuration]:
        """The leader, or the reference where none leads; then the racers that came near the leader."""
        yield self.racers[self.leader or self.reference].settings
        for name, own in self.by_rate(self.racers).items():
            if own.ratio >= NEAR:
                yield self.racers[name].settings

    def one_by_one(self, centre: str) -> Iterator[tuple[str, Any, Ratio]]:
        """By racer that differs from ``centre`` in one knob alone: it, its value, and the rates' ratio."""
        for name, racer in self.racers.items():
            changed = changed_knobs(racer.settings, self.racers[centre].settings)
            if len(changed) == 1 and (own := self.ratio(name, centre)):
                yield changed[0], knob_values(racer.settings)[changed[0]], own

    def promises(self, configurations: Iterable[Configuration]) -> dict[Configuration, float]:
        """The share of the leader's rate that each reaches if all its knobs' values bring what each brought
        alone; a value that did not race alone changes nothing."""
        centre = self.leader or self.reference
        leader = self.racers[centre].settings
        alone = {(knob, value): own.ratio for knob, value, own in self.one_by_one(centre)}
        return {
            one: prod(alone.get((knob, knob_values(one)[knob]), 1.0) for knob in changed_knobs(one, leader))
            for one in configurations
        }

    def most_workers(self, cores: int) -> float:
        """The most workers worth a try: they keep the cores busy twice over, by what each used at most."""
        served = [one for one in self.racers.values() if one.server_cores]
        shares = [fmean(one.server_cores) / one.settings.workers for one in served]
        most = MORE_WORKERS * max((one.settings.workers for one in served), default=0)
        return max(2 * cores, min(2 * cores / max([*shares, 0.001]), most))

    def settled(self) -> bool:
        """Whether more rounds change nothing: all that remain, and are served, are equally fast."""
        served = [name for name in self.remaining if not self.racers[name].out_of_memory]
        ratios = [self.over_leader(name) for name in served]
        return bool(self.leader) and all(own is not None and own.equal for own in ratios)

    def standing(self) -> str:
        """Which racer leads, and how many remain."""
        if self.leader is None:
            return "nobody leads"
        mean_rps = fmean(self.racers[self.leader].requests_rps)
        return f"{len(self.remaining)} of {len(self.racers)} left, {self.leader} leads, {mean_rps:.0f}/s"

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
        # Of the racers that share an answered round with the reference; it is one of them if it answered.
        rates = {name: racer.rates for name, racer in self.racers.items()}
        return {name: own for name, own in rates.items() if rounds_of_both(rates, name, self.reference)}

    def _judge(self, racer: Racer) -> None:
        """Note whether a racer violates a constraint; eliminate it where that is beyond doubt."""
        limits, memory_mib, p95_ms = self.limits, racer.memory_mib, racer.latency_ms(95)
        violation, for_good = "", True
        if racer.agreement is not None and racer.agreement < limits.min_agreement:
            agreeing = f"{racer.agreement:.1%} of the labels as in full precision"
            violation = f"{agreeing}, less than {limits.min_agreement:.4g}"
        elif limits.max_memory_mib and memory_mib and memory_mib > limits.max_memory_mib:
            violation = f"{memory_mib:.0f} MiB, more than max_memory_mib"
        elif limits.max_p95_ms and p95_ms and p95_ms > limits.max_p95_ms:
            violation = f"p95 {p95_ms:.0f} ms, more than max_p95_ms"
            far_late_ms = racer.latency_ms(FAR_LATE) or 0.0
            for_good = racer.rounds >= FEWEST_ROUNDS and far_late_ms > limits.max_p95_ms
        racer.constraint_violation = violation
        if violation and for_good and racer.eliminated_after_rounds is None:
            racer.eliminated_after_rounds = self.rounds


def race(
    racing: Race, plan: LoadPlan, until_s: float, next_racers: Callable[[], Sequence[Racer]]
) -> Schedule[None]:
    """Run rounds until all that remain are equally fast and none join, or until time is up.

    Args:
        until_s: when the time for the race and for fresh rounds is up, seconds since the log's begin.
        next_racers: those that have not raced and may be the fastest, the most promising first.

    Raises:
        ServerError: the reference does not answer, or memory has no room for it.
    """
    rng, order = random.Random(racing.limits.seed), list[str]()
    ready = yield from make_ready([racing.reference])
    start_s, now_s = ready.ready_s.get(racing.reference) or 0.0, ready.at_s
    while racing.reference in ready.names:
        present = [name for name in racing.next_turns if name in ready.names]
        if racing.rounds % 2:  # the reverse of the round before
            order = [name for name in reversed(order) if name in present]
            order += [name for name in present if name not in order]
        else:
            order = rng.sample(present, len(present))
        began_s, now_s = now_s, (yield from racing.run_round(order, plan))
        round_s, enough = now_s - began_s, racing.rounds >= FEWEST_ROUNDS
        fresh_s = max(FRESH_SHARE * until_s, 2 * FEWEST_ROUNDS * round_s / len(order))
        spare_s = until_s - fresh_s - now_s
        if enough and round_s > spare_s:
            return
        done = enough and (racing.leader is None or racing.settled())
        if done or racing.rounds % JOIN_EVERY == 1:
            count = int((spare_s - JOIN_ROUNDS * round_s) / (start_s + JOIN_ROUNDS * round_s / len(order)))
            # However short the time, one joins the reference.
            most = max(1, count) if len(racing.racers) == 1 else max(0, min(JOIN_MOST, count))
            new = next_racers()[:most]
            if done and not new:
                return
            racing.join(new)
        if set(racing.next_turns) != set(order):
            before = ready
            ready = yield from make_ready(racing.next_turns)
            if started := set(ready.names).difference(before.names):
                start_s = (ready.at_s - now_s) / len(started)
            now_s = ready.at_s
    raise ServerError("serve: cannot be served; all others are compared with it")


@dataclass(frozen=True)
class Job:
    """What a search works on.

    Attributes:
        agreement: the share of answers that stay those of full precision; None where that is not known.
        cores: that workers share, which bounds how many are tried; None: all in ``space`` are.
    """

    tune: TuneSettings
    serve: Configuration
    load: LoadSettings
    objective: ObjectiveSettings
    space: Space
    agreement: Callable[[Configuration], float] | None
    cores: int | None = None

    @property
    def incumbent(self) -> Configuration:
        """The section ``serve``."""
        own: Configuration = self.serve.canonical(self.serve.model_dump(), self.tune.users)
        return own

    @property
    def configurations(self) -> list[Configuration]:
        """All that may be served, the incumbent first."""
        return list(dict.fromkeys([self.incumbent, *self.space.configurations]))

    def racer(self, settings: Configuration) -> Racer:
        """A configuration that joins the race."""
        return Racer(settings, None if self.agreement is None else self.agreement(settings))


@dataclass(frozen=True)
class Outcome:
    """What a search has found; ``rows`` begins with the winner, and ``TuneMetrics`` explains the others."""

    winner: Configuration
    rows: list[TuneRow]
    knobs: list[KnobRow]
    left_out: Mapping[str, int]
    combinations: int
    rounds: int
    settled: bool
    fresh_rounds: int
    capacity: CapacityMetrics | None


def search(job: Job) -> Schedule[Outcome]:
    """Search the configuration that reaches the goal best.

    The subjects of its turns are ``job.configurations`` by ``search_name``.

    Raises:
        LitmeterError: no configuration can run or keeps to the constraints, or a model, server or load
            generator failed.
    """
    tune, space = job.tune, job.space
    reasons = "; ".join(f"{number}: {reason}" for reason, number in Counter(space.left_out).most_common())
    if not space.configurations:
        raise LitmeterError(f"tune: no configuration can run: {reasons}")
    print_wrapped(f"1. {len(space.configurations)} configurations can run; left out: {reasons or 'none'}")
    racing = Race(tune)
    racing.join([job.racer(job.incumbent)])
    print_wrapped("2. serve: races, then its neighbours, then those of the fastest, then others")
    if job.serve.search_name_parts:
        print_wrapped(f"   names have {job.serve.search_name_parts}")
    plan = turn_plan(tune.users, job.load.timeout_s, job.load.seed, 0, TUNE_PACE)
    by_capacity = tune.goal == "capacity"
    each_s = min(job.objective.max_s, CAPACITIES_SHARE * tune.max_s / CAPACITIES) if by_capacity else 0.0
    until_s = tune.max_s - CAPACITIES * each_s
    yield from race(racing, plan, until_s, partial(_next_racers, job, racing))
    print_wrapped(f"3. after {racing.rounds} rounds {racing.standing()}")
    capacities: dict[str, CapacityMetrics] = {}
    if by_capacity:
        objective = job.objective.model_copy(update={"max_s": each_s})
        names = list(racing.by_rate(racing.remaining))[:CAPACITIES]
        found = yield from capacity(names, objective, job.load.timeout_s)
        capacities = {name: one.metrics for name, one in found.items()}
    highest = highest_capacities(capacities)
    ordered = sorted(highest, key=lambda name: cost(racing.racers[name])) or finalists(racing)
    if not ordered:
        broken = sorted({one.constraint_violation for one in racing.racers.values()} - {""})
        raise LitmeterError(f"tune: no configuration keeps to the constraints: {'; '.join(broken)}")
    winner, statuses = ordered[0], {name: _status_of(racing, name) for name in racing.racers}
    if highest:
        statuses |= {name: "equal" if name in highest else "slower" for name in capacities}
    statuses[winner] = "winner"
    fresh = yield from _fresh_rounds(racing, winner, plan, FRESH_SHARE * until_s)
    stayed = {name: one.eliminated_after_rounds for name, one in racing.racers.items()}
    longest = sorted(stayed, key=lambda name: -(racing.rounds if (own := stayed[name]) is None else own))
    unraced = [one for one in space.configurations if one.search_name not in racing.racers]
    in_order = dict.fromkeys([winner, *finalists(racing), *longest])
    return Outcome(
        winner=racing.racers[winner].settings,
        rows=[
            _tune_row(racing, one, statuses[one], capacities.get(one), fresh if one == winner else racing)
            for one in in_order
        ],
        knobs=_knob_rows(racing, winner),
        left_out=Counter(space.left_out) + Counter({NOT_RACED: len(unraced)}),
        combinations=len(space.configurations) + sum(space.left_out.values()),
        rounds=racing.rounds,
        settled=racing.settled(),
        fresh_rounds=fresh.rounds - racing.rounds,
        capacity=capacities.get(winner),
    )


def _fresh_rounds(racing: Race, winner: str, plan: LoadPlan, seconds: float) -> Schedule[Race]:
    """A race of the winner and the reference alone for ``seconds``.

    ``racing`` itself where the reference has won, or memory has no room for both.
    """
    fresh = Race(racing.limits, rounds=racing.rounds)
    settings = [racing.racers[name].settings for name in (racing.reference, winner)]
    fresh.join(Racer(one, None) for one in settings)
    ready = yield from make_ready(order := list(fresh.racers))
    if len(ready.names) < 2:
        return racing
    now_s, until_s, round_s = ready.at_s, ready.at_s + seconds, 0.0
    while fresh.rounds < racing.rounds + FEWEST_ROUNDS or now_s + round_s <= until_s:
        before_s, now_s = now_s, (yield from fresh.run_round(order, plan))
        round_s = now_s - before_s
        order.reverse()
    return fresh


def _next_racers(job: Job, racing: Race) -> list[Racer]:
    """Those that have not raced: neighbours of the first centre that has any, in an order by chance; or of
    all others those that are not surely slower, the most promising first."""
    most = inf if job.cores is None else racing.most_workers(job.cores)
    every = [one for one in job.space.configurations if one.workers <= most]

    def new(settings: Iterable[Configuration]) -> list[Racer]:
        racers = [job.racer(one) for one in settings if one.search_name not in racing.racers]
        return [one for one in racers if one.agreement is None or one.agreement >= job.tune.min_agreement]

    near = next(filter(None, (new(neighbours(one, every)) for one in racing.centres())), [])
    random.Random(f"{job.tune.seed}/{racing.rounds}").shuffle(near)
    if near or racing.leader is None:
        return near
    promises = racing.promises(every)
    may = [one for one in every if promises[one] >= SURELY_SLOWER]
    return new(sorted(may, key=lambda one: -promises[one]))


def highest_capacities(capacities: Mapping[str, CapacityMetrics]) -> list[str]:
    """The names whose interval overlaps that of the highest capacity; of "above_range" the low end counts."""
    lows = {name: one.low_rps for name, one in capacities.items() if one.low_rps is not None}
    if not lows:
        return []
    best = max(lows, key=lambda name: capacities[name].capacity_rps or lows[name])
    highs = {name: capacities[name].high_rps for name in lows}
    return [name for name, high in highs.items() if high is None or high >= lows[best]]


def finalists(racing: Race) -> list[str]:
    """The racers that remain: those hardly slower than the leader, by cost; then the others, by rate."""
    ratios = racing.by_rate(racing.remaining)
    as_fast = [name for name, own in ratios.items() if own.low is not None and own.low >= CHEAPER_FROM]
    others = [name for name in ratios if name not in as_fast]
    return sorted(as_fast, key=lambda name: cost(racing.racers[name])) + others


def cost(racer: Racer) -> tuple[object, ...]:
    """The key by which the cheaper racer sorts first: less memory, in steps, then the simpler settings."""
    return (round((racer.memory_mib or 0.0) / MEMORY_STEP_MIB), racer.settings.simplicity)


def _status_of(racing: Race, name: str) -> Status:
    racer, own = racing.racers[name], racing.over_leader(name)
    if racer.constraint_violation or racer.out_of_memory:
        return "excluded"
    if racer.eliminated_after_rounds is not None or own is None:
        return "slower"
    return "equal" if own.equal else "not resolved"


def _tune_row(
    racing: Race, name: str, status: Status, capacity: CapacityMetrics | None, rated: Race
) -> TuneRow:
    racer = racing.racers[name]
    over_serve = rated.ratio(name, rated.reference)
    return TuneRow(
        name=name,
        status=status,
        incumbent=name == racing.reference,
        knobs={knob: getattr(racer.settings, knob) for knob in racer.settings.knobs},
        rate_rps=round(geometric_mean(own), 1) if (own := rated.racers[name].requests_rps) else None,
        **in_columns(racing.over_leader(name), "ratio", "ratio_low", "ratio_high"),
        **in_columns(over_serve, "over_serve", "over_serve_low", "over_serve_high"),
        p95_ms=rounded(racer.latency_ms(95), 1),
        memory_mib=rounded(racer.memory_mib, 0),
        agreement=rounded(racer.agreement, 4),
        failed=racer.failed,
        rounds=racer.rounds,
        eliminated_after_rounds=racer.eliminated_after_rounds,
        capacity_rps=rounded(capacity.capacity_rps if capacity else None, 1),
        capacity_low_rps=rounded(capacity.low_rps if capacity else None, 1),
        capacity_high_rps=rounded(capacity.high_rps if capacity else None, 1),
        reason=racer.constraint_violation or ("no memory for its server" if racer.out_of_memory else ""),
    )


def _knob_rows(racing: Race, winner: str) -> list[KnobRow]:
    """The rates of racers that differ from the winner in one knob, over the winner's rate."""
    rows = [
        KnobRow(
            knob,
            json.dumps(value).strip('"'),
            **in_columns(own, "ratio", "ratio_low", "ratio_high", digits=3),
        )
        for knob, value, own in racing.one_by_one(winner)
    ]
    order = list(knob_values(racing.racers[winner].settings))
    return sorted(rows, key=lambda row: (order.index(row.knob), -row.ratio))
