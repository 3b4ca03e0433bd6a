"""The whole search, a schedule of the one loop.

What cannot run is left out (``space``). The costs of the parts, in-process and of servers with a null model,
predict every rate; where nothing runs in-process, nothing is predicted. The best race: they are served at
once and take turns in rounds, and who has lost drops out. Rates of the same round are compared, as a machine
that drifts changes both (``stats.ratios``).
"""

from __future__ import annotations

import json
import math
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean, geometric_mean, pstdev

import numpy as np

from litmeter.errors import LitmeterError, ServerError
from litmeter.kinds.configuration import LEAST_S, Configuration, Costs, Host, Part, TuneSettings, cpu_of
from litmeter.load import LoadPlan
from litmeter.load.settings import LoadSettings
from litmeter.measure.capacity import CapacityMetrics, capacity
from litmeter.measure.comparison_rows import interval
from litmeter.measure.figures import latencies_ms
from litmeter.measure.rounds import turn_plan
from litmeter.measure.turn import Sample, Schedule, Turn, Work, in_process, measure, serve
from litmeter.params import ObjectiveSettings
from litmeter.say.progress import print_wrapped
from litmeter.stats.rates import Z95, percentile
from litmeter.stats.ratios import Rates, Ratio, difference, ratio
from litmeter.stats.records import Floats, joined
from litmeter.system.files import rounded
from litmeter.tune.rows import KnobRow, Status, TuneRow
from litmeter.tune.space import WORKERS_TIMES_THREADS, Space, changed_knobs

COST_ROUNDS = 4
"""Rounds of all parts: were each measured once, a drift of the machine would pass for a cost."""
WORK_S, NULL_S = 0.15, 1.0
"""Measured in each turn, of a part in-process and of a server with a null model."""

FEWEST_ROUNDS = 4
"""Before anybody is compared, however short the time."""
LOSING_P = 0.02
"""One-sided p value of a paired test against the leader, below which a configuration is eliminated."""
FAR_BEHIND_ROUNDS, FAR_BEHIND = 2, 0.6
"""Sooner, where it had less than this share of the leader's rate in each round so far."""
NEIGHBOURS_EVERY, JOIN_ROUNDS = 4, 6
"""Every so many rounds the leader's neighbours join. Nobody joins who has no time for so many rounds."""
FEWEST_RACERS = 2
"""The reference and another, however short the time."""
LATEST = 1.05
"""Share of the time by which the fewest rounds end at the latest: whoever has none for them leaves."""
AROUND_TURN_S = 0.3
"""A turn takes so much longer than its load."""
NO_TIME = "no time for it"
FAR_LATE = 90
"""Percentile that is above the limit of the p95 where that is missed beyond doubt."""
RACERS = 16
"""The best by prediction race."""
NEIGHBOURS_FROM = 0.5
"""Share of the leader's predicted rate: predictions are hardly ever off by more."""
COSTS_SHARE = 0.2
"""Share of the time that is left, at most, for further rounds of the costs."""
CAPACITIES, CAPACITIES_SHARE = 3, 1 / 2
"""By goal capacity, finalists whose capacity is measured, and share of the budget, at most, for that."""
CHEAPER_FROM = 0.95
"""A cheaper one wins where the interval of its rate over the leader's reaches no further down."""
MEMORY_STEP_MIB = 50.0
"""Differences of memory below this are none."""


def subject_of(part: Part) -> str:
    """The part's name among the subjects of the loop."""
    return part.name if part.work == "request" else in_process(part.name)


def measure_costs(parts: Sequence[Part], plan: LoadPlan, budget_s: float, seed: int) -> Schedule[Costs]:
    """Measure all parts in interleaved rounds, as many of them at once as memory holds.

    After COSTS_SHARE of what is left of ``budget_s`` no more rounds than the first begin. Raise LitmeterError
    where a server with a null model does not answer.

    Returns:
        Those of ``steady``, without the parts that do not start.
    """
    plan = replace(plan, requests=1, min_s=NULL_S, max_s=NULL_S, give_up_s=None)
    costs: dict[str, dict[int, float]] = defaultdict(dict)
    waiting, rng = list(parts), random.Random(seed)
    while waiting:
        serving = yield from serve([subject_of(part) for part in waiting])
        group = [part for part in waiting if subject_of(part) in serving.names]
        works = [(part, size) for part in group for size in part.batch_sizes]
        share = COSTS_SHARE * len(group) / len(parts)
        until_s = serving.at_s + share * max(0.0, budget_s - serving.at_s)
        order: list[tuple[Part, int]] = []
        seconds: dict[tuple[str, int], list[float]] = defaultdict(list)
        for number in range(COST_ROUNDS):
            order = order[::-1] if number % 2 else rng.sample(works, len(works))
            for part, size in order:
                load = plan if part.work == "request" else Work(part.work, size, WORK_S, part.workers)
                sample = yield from measure(Turn(subject_of(part), load, number, note="costs"))
                for name, cost_s in _costs_s(part, sample).items():
                    seconds[name, size].append(cost_s)
            if not works or sample.ended_s > until_s:
                break
        for (name, size), cost_s in zip(seconds, steady(list(seconds.values())), strict=True):
            costs[name][size] = cost_s
        # The first of those that wait always has room: where it is not ready, it has failed.
        waiting = [part for part in waiting[1:] if part not in group]
    return costs


def steady(seconds: Sequence[Sequence[float]]) -> list[float]:
    """Costs of parts (rows) by what they took in each round: neither a slow round nor a slow moment counts.

    Logarithms are those of the part plus those of the round, which is what most parts have in common; of what
    is left, the median over rounds.
    """
    if not seconds:
        return []
    logs = np.log(np.array(seconds))
    rounds = np.median(logs - logs.mean(axis=1, keepdims=True), axis=0)
    return [float(cost_s) for cost_s in np.exp(np.median(logs - rounds, axis=1))]


def _costs_s(part: Part, sample: Sample) -> dict[str, float]:
    """What a turn of a part says of its costs."""
    row = sample.row
    own = part.times_cpu and row.workers_cpu_ms is not None
    workers = {cpu_of(part.name): max((row.workers_cpu_ms or 0.0) / 1000, LEAST_S)} if own else {}
    if part.work != "request":
        if not row.rate_rps:
            raise LitmeterError(f"{part.name}: no batch was done")
        return {part.name: part.workers / row.rate_rps, **workers}
    if not row.rate_rps or row.server_cores is None or row.client_cores is None or row.failed:
        raise LitmeterError(f"{part.name}: the server with a null model did not answer every request")
    return {part.name: (row.server_cores + row.client_cores) / row.rate_rps, **workers}


def ranking(
    configurations: Iterable[Configuration], costs: Costs, machine: Host, users: int
) -> list[tuple[Configuration, float]]:
    """The configurations with their predicted rates, fastest first; of equals, the simpler first."""
    predicted = [(one, one.predicted_rps(costs, machine, users)) for one in configurations]
    return sorted(predicted, key=lambda pair: (-pair[1], pair[0].simplicity))


@dataclass
class Racer:
    """A configuration in the race.

    Attributes:
        agreement: share of the answers that stay those of full precision; None where that is not known.
        rates: of each round; 0 where it did not answer, None where it took no part.
        latencies_ms: of the good answers of each of its turns.
        failed: requests that were refused, failed or timed out.
        constraint_violation: the constraint that it does not keep to, empty where it keeps to all.
    """

    settings: Configuration
    predicted_rps: float | None
    agreement: float | None
    rates: list[float | None] = field(default_factory=list)
    latencies_ms: list[Floats] = field(default_factory=list)
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
        racers = self.racers.items()
        return [name for name, one in racers if one.eliminated_after_rounds is None or name == self.reference]

    def keep(self, count: int) -> None:
        """Let only the first that joined take part, ``count`` with the reference."""
        self.racers = dict(list(self.racers.items())[:count])

    def shorten(self, names: Sequence[str], count: int) -> None:
        """Let no more than ``count`` of those that are served go on, the reference and the fastest so far."""

        def order(name: str) -> tuple[bool, float]:
            return name != self.reference, -fmean(rate or 0.0 for rate in self.racers[name].rates)

        for name in sorted(set(names).intersection(self.next_turns), key=order)[count:]:
            self.racers[name].constraint_violation = NO_TIME
            self.racers[name].eliminated_after_rounds = self.rounds

    @property
    def remaining(self) -> list[str]:
        """Those that may lead: neither eliminated nor breaking a constraint."""
        racers = self.racers.items()
        left_at = {name: one.eliminated_after_rounds for name, one in racers if not one.constraint_violation}
        return [name for name, rounds in left_at.items() if rounds is None]

    def join(self, racers: Sequence[Racer]) -> None:
        """Let more configurations take part from the next round on."""
        for racer in racers:
            racer.rates = [None] * self.rounds
            self.racers[racer.name] = racer
            self._judge(racer)

    def run_round(self, order: Sequence[str], plan: LoadPlan) -> Schedule[float]:
        """Measure a round, and eliminate who is slower than the leader beyond doubt; return its end.

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
        if self.rounds >= FEWEST_ROUNDS and not any(self.racers[self.reference].rates):
            raise ServerError("serve: does not answer; all others are compared with it")
        answered, own = self._answered(), self.reference
        may_lead = [name for name in self.remaining if name in answered]
        means = {name: difference(answered, name, own, own).mean for name in may_lead}
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

    def prediction_error(self) -> float | None:
        """Standard deviation of ln(measured / predicted) over all that answered; None without predictions.

        So what is wrong by the same factor everywhere does not count: it changes no order.
        """
        pairs = [(self.ratio(name, self.reference), one.predicted_rps) for name, one in self.racers.items()]
        logs = [math.log(own.ratio / rps) for own, rps in pairs if own and rps]
        return pstdev(logs) if logs else None

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
        rates = {name: racer.rates for name, racer in self.racers.items()}
        pairs = {name: zip(own, rates[self.reference], strict=True) for name, own in rates.items()}
        return {name: own for name, own in rates.items() if any(a and b for a, b in pairs[name])}

    def _judge(self, racer: Racer) -> None:
        """Note whether a racer breaks a constraint; it is eliminated where that is for good."""
        limits, memory_mib, p95_ms = self.limits, racer.memory_mib, racer.latency_ms(95)
        violation, for_good = "", True
        if racer.agreement is not None and racer.agreement < limits.min_agreement:
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
    racing: Race, plan: LoadPlan, until_s: float, neighbours: Callable[[Configuration], Sequence[Racer]]
) -> Schedule[None]:
    """Run rounds until all that remain are equally fast, or time is up, ``until_s`` after the log's begin.

    As many of those that joined take part, the first ones, as have time for JOIN_ROUNDS.

    Args:
        neighbours: who differs from a configuration by one key, the best first; they race once it leads.

    Raises:
        ServerError: the reference does not answer, or memory has no room for it.
    """
    rng, order = random.Random(racing.limits.seed), list[str]()
    nobody = yield from serve([])
    alone = yield from serve([racing.reference])
    start_s, turn_s = alone.at_s - nobody.at_s, plan.warmup_s + plan.min_s + AROUND_TURN_S
    count = int((until_s - alone.at_s - JOIN_ROUNDS * turn_s) / (start_s + JOIN_ROUNDS * turn_s))
    racing.keep(1 + max(FEWEST_RACERS - 1, count))
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
        if (rounds := FEWEST_ROUNDS - racing.rounds) > 0:
            spare_s = LATEST * until_s - now_s
            racing.shorten(order, max(FEWEST_RACERS, int(spare_s / (rounds * round_s / len(order)))))
        else:
            if leader is None or now_s + round_s > until_s:
                return
            settled = racing.settled()
            if settled or not racing.rounds % NEIGHBOURS_EVERY:
                spare_s = until_s - now_s - JOIN_ROUNDS * round_s
                count = int(spare_s / (start_s + JOIN_ROUNDS * round_s / len(order)))
                near = neighbours(racing.racers[leader].settings)
                new = [one for one in near if one.name not in racing.racers][: max(0, count)]
                if settled and not new:
                    return
                racing.join(new)
        if set(racing.next_turns) != set(order):
            serving = yield from serve(racing.next_turns)
            now_s = serving.at_s


def too_little(agreement: float, min_agreement: float) -> str:
    """Why a configuration does not race or win whose answers differ from those of full precision."""
    return f"{agreement:.1%} of the labels as in full precision, less than {min_agreement:.4g}"


@dataclass(frozen=True)
class Job:
    """What a search works on.

    Attributes:
        agreement: the share of answers that stay those of full precision; None where that is not known.
    """

    tune: TuneSettings
    serve: Configuration
    load: LoadSettings
    objective: ObjectiveSettings
    machine: Host
    space: Space
    agreement: Callable[[Configuration], float] | None

    @property
    def incumbent(self) -> Configuration:
        """The section ``serve``."""
        own: Configuration = self.serve.canonical(self.serve.model_dump(), self.tune.users)
        return own

    @property
    def configurations(self) -> list[Configuration]:
        """All that may be served, the incumbent first."""
        return list(dict.fromkeys([self.incumbent, *self.space.configurations]))

    @property
    def parts(self) -> list[Part]:
        """All whose costs are measured."""
        if self.machine.unavailable:
            return []
        return self.serve.parts(self.configurations, self.machine.device, self.machine.cores)


@dataclass(frozen=True)
class Outcome:
    """What a search has found.

    Attributes:
        rows: of all that raced, the winner first.
        left_out: number of configurations that did not race, by reason.
        combinations: of the knobs' values, those that cannot run among them.
        settled: whether the race ended by itself.
    """

    winner: Configuration
    rows: list[TuneRow]
    knobs: list[KnobRow]
    left_out: Mapping[str, int]
    combinations: int
    prediction_error: float | None
    rounds: int
    settled: bool
    capacity: CapacityMetrics | None


def search(job: Job) -> Schedule[Outcome]:
    """Search the configuration that reaches the goal best.

    Its subjects are those of ``job.parts``, and ``job.configurations`` by ``search_name``.

    Raises:
        LitmeterError: no configuration can run or keeps to the constraints, or a model, server or load
            generator failed.
    """
    tune, space = job.tune, job.space
    reasons = "; ".join(f"{number}: {reason}" for reason, number in Counter(space.left_out).most_common())
    if not space.configurations:
        raise LitmeterError(f"tune: no configuration can run: {reasons}")
    print_wrapped(f"1. {len(space.configurations)} configurations can run; left out: {reasons or 'none'}")
    plan = turn_plan(tune.users, job.load.timeout_s, job.load.seed, 0)
    costs = yield from measure_costs(job.parts, plan, tune.max_s, tune.seed)
    if job.machine.unavailable:
        shuffled = random.Random(tune.seed).sample(job.configurations, len(job.configurations))
        predicted = dict.fromkeys(shuffled, 1.0)
    else:
        running = [one for one in job.configurations if costs.keys() >= set(one.part_names())]
        predicted = dict(ranking(running, costs, job.machine, tune.users))
    if job.incumbent not in predicted or not set(predicted).intersection(space.configurations):
        raise LitmeterError("tune: what configurations consist of does not start")
    candidates = _Candidates(job, predicted)
    racing = Race(tune)
    racing.join(candidates.first())
    found_rps = (
        f"no rate is predicted ({job.machine.unavailable}); some race, by chance, and serve:"
        if job.machine.unavailable
        else f"the costs of the parts predict {min(predicted.values()):.0f} to {max(predicted.values()):.0f} "
        f"req/s; the best of them race, and serve: ({predicted[job.incumbent]:.0f} req/s)"
    )
    print_wrapped(f"2. {found_rps}")
    by_capacity = tune.goal == "capacity"
    each_s = min(job.objective.max_s, CAPACITIES_SHARE * tune.max_s / CAPACITIES) if by_capacity else 0.0
    chosen = dict(racing.racers)
    yield from race(racing, plan, tune.max_s - CAPACITIES * each_s, candidates.neighbours)
    late = [one.settings for name, one in chosen.items() if name not in racing.racers]
    candidates.reasons |= dict.fromkeys(late, NO_TIME)
    without = f"; for {len(late)} more there was no time" if late else ""
    print_wrapped(f"3. after {racing.rounds} rounds {racing.standing()}{without}")
    capacities: dict[str, CapacityMetrics] = {}
    if by_capacity:
        objective = job.objective.model_copy(update={"max_s": each_s})
        found = yield from capacity(list(fastest(racing))[:CAPACITIES], objective, job.load.timeout_s)
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
    stayed = {name: one.eliminated_after_rounds for name, one in racing.racers.items()}
    longest = sorted(stayed, key=lambda name: -(racing.rounds if (own := stayed[name]) is None else own))
    in_order = dict.fromkeys([winner, *finalists(racing), *longest])
    return Outcome(
        winner=racing.racers[winner].settings,
        rows=[_tune_row(racing, one, statuses[one], capacities.get(one)) for one in in_order],
        knobs=_knob_rows(candidates.predicted, racing, winner),
        left_out=candidates.left_out(racing.racers),
        combinations=len(space.configurations) + sum(space.left_out.values()),
        prediction_error=racing.prediction_error(),
        rounds=racing.rounds,
        settled=racing.settled(),
        capacity=capacities.get(winner),
    )


@dataclass
class _Candidates:
    """Who may race: predicted rates of those whose parts run, fastest first; why some of them do not race."""

    job: Job
    predicted: Mapping[Configuration, float]
    reasons: dict[Configuration, str] = field(default_factory=dict)

    def first(self) -> list[Racer]:
        """The incumbent, and the best of the space, or any where nothing is predicted.

        Of those with the very same prediction the simplest alone races: nothing that was measured tells them
        apart.
        """
        incumbent = self.job.incumbent
        racers = [self._racer(incumbent)]
        taken = {self.predicted[incumbent]} if incumbent in self.job.space.configurations else set()
        for settings, predicted_rps in self.predicted.items():
            if settings == incumbent or len(racers) > RACERS:
                continue
            if predicted_rps in taken and not self.job.machine.unavailable:
                self.reasons[settings] = "predicted as fast as a simpler one"
            elif self._agrees(settings):
                taken.add(predicted_rps)
                racers.append(self._racer(settings))
        return racers

    def neighbours(self, leader: Configuration) -> list[Racer]:
        """Those that differ from the leader by one knob, and are not predicted to be far slower."""
        return [
            self._racer(settings)
            for settings, predicted_rps in self.predicted.items()
            if predicted_rps >= NEIGHBOURS_FROM * self.predicted[leader]
            and settings != self.job.incumbent
            and len(changed_knobs(settings, leader)) == 1
            and self._agrees(settings)
        ]

    def left_out(self, racers: Mapping[str, Racer]) -> Mapping[str, int]:
        """Number of configurations by the reason why they did not race."""
        slower, failed = "predicted to be slower", "a part of it does not start"
        if self.job.machine.unavailable:
            slower = "no place in the race"
        return Counter(self.job.space.left_out) + Counter(
            self.reasons.get(one, slower if one in self.predicted else failed)
            for one in self.job.space.configurations
            if one.search_name not in racers
        )

    def _racer(self, settings: Configuration) -> Racer:
        predicted_rps = None if self.job.machine.unavailable else self.predicted[settings]
        return Racer(settings, predicted_rps, self._agreement(settings))

    def _agreement(self, settings: Configuration) -> float | None:
        return None if self.job.agreement is None else self.job.agreement(settings)

    def _agrees(self, settings: Configuration) -> bool:
        agreement, least = self._agreement(settings), self.job.tune.min_agreement
        if agreement is None or agreement >= least:
            return True
        self.reasons[settings] = too_little(agreement, least)
        return False


def highest_capacities(capacities: Mapping[str, CapacityMetrics]) -> list[str]:
    """Those whose capacity's interval overlaps that of the highest one; of "above_range" the low end."""
    lows = {name: one.low_rps for name, one in capacities.items() if one.low_rps is not None}
    if not lows:
        return []
    best = max(lows, key=lambda name: capacities[name].capacity_rps or lows[name])
    highs = {name: capacities[name].high_rps for name in lows}
    return [name for name, high in highs.items() if high is None or high >= lows[best]]


def fastest(racing: Race) -> dict[str, Ratio]:
    """Those that remain, with their rate over the leader's, the highest first."""
    ratios = [(name, own) for name in racing.remaining if (own := racing.over_leader(name))]
    return dict(sorted(ratios, key=lambda pair: -pair[1].ratio))


def finalists(racing: Race) -> list[str]:
    """Those that remain: first the cheapest of the ones that are hardly slower than the leader."""
    ratios = fastest(racing)
    as_fast = [name for name, own in ratios.items() if own.low is not None and own.low >= CHEAPER_FROM]
    others = [name for name in ratios if name not in as_fast]
    return sorted(as_fast, key=lambda name: cost(racing.racers[name])) + others


def cost(racer: Racer) -> tuple[object, ...]:
    """What is cheaper sorts first: less memory, in steps, then what is simpler."""
    return (round((racer.memory_mib or 0.0) / MEMORY_STEP_MIB), racer.settings.simplicity)


def _status_of(racing: Race, name: str) -> Status:
    racer, own = racing.racers[name], racing.over_leader(name)
    if racer.constraint_violation or racer.out_of_memory:
        return "excluded"
    if racer.eliminated_after_rounds is not None or own is None:
        return "slower"
    return "equal" if own.equal else "not resolved"


def _tune_row(racing: Race, name: str, status: Status, capacity: CapacityMetrics | None) -> TuneRow:
    racer = racing.racers[name]
    rates = [rate for rate in racer.rates if rate]
    ratio, ratio_low, ratio_high = interval(racing.over_leader(name))
    over_serve, over_serve_low, over_serve_high = interval(racing.ratio(name, racing.reference))
    return TuneRow(
        name=name,
        status=status,
        incumbent=name == racing.reference,
        knobs={knob: getattr(racer.settings, knob) for knob in racer.settings.knobs},
        predicted_rps=rounded(racer.predicted_rps, 1),
        rate_rps=round(geometric_mean(rates), 1) if rates else None,
        ratio=ratio,
        ratio_low=ratio_low,
        ratio_high=ratio_high,
        over_serve=over_serve,
        over_serve_low=over_serve_low,
        over_serve_high=over_serve_high,
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


def _knob_rows(predicted: Mapping[Configuration, float], racing: Race, winner: str) -> list[KnobRow]:
    """For each knob and each of its other values in ``predicted``: the rate over the winner's.

    A predicted ratio has an interval by the error of the predictions; without any, measured ones are all.
    """
    best, rows = racing.racers[winner].settings, []
    error = racing.prediction_error()
    factor = math.exp(Z95 * math.sqrt(2) * (error or 0.0))
    for settings, predicted_rps in predicted.items():
        changed = changed_knobs(settings, best)
        if len(changed) != 1:
            continue
        [knob] = changed
        both = knob == WORKERS_TIMES_THREADS
        value = settings.workers_times_threads if both else json.dumps(getattr(settings, knob)).strip('"')
        measured = racing.ratio(settings.search_name, winner)
        if error is None and measured is None:
            continue
        share = predicted_rps / predicted[best]
        own = measured or Ratio(share, share / factor, share * factor)
        figures = (round(own.ratio, 3), rounded(own.low, 3), rounded(own.high, 3))
        rows.append(KnobRow(knob, value, *figures, "measured" if measured else "predicted"))
    order = [*(WORKERS_TIMES_THREADS if knob == best.lever("workers") else knob for knob in best.knobs)]
    return sorted(rows, key=lambda row: (order.index(row.knob), -row.ratio))
