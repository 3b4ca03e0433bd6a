"""The whole search, from the space to the winner, its capacity, and what each knob is worth."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from litmeter.errors import LitmeterError
from litmeter.measure.capacity import CapacityMetrics, capacity
from litmeter.measure.comparison_rows import geometric_mean, ratio_columns
from litmeter.measure.rounds import turn_plan
from litmeter.measure.turn import Schedule
from litmeter.params import KNOBS, LoadSettings, ObjectiveSettings, ServeSettings, TuneSettings
from litmeter.stats.comparison import Ratio
from litmeter.system.files import rounded
from litmeter.system.progress import print_wrapped
from litmeter.tune.costs import Part, measure_costs, part_names, parts_of, ranking
from litmeter.tune.race import Race, Racer, race, too_little
from litmeter.tune.rows import KnobRow, Status, TuneRow
from litmeter.tune.space import (
    WORKERS_TIMES_THREADS,
    Machine,
    Space,
    canonical,
    changed_knobs,
    name_of,
    simplicity,
    workers_times_threads,
)

RACERS = 16
"""The best by prediction race."""
NEIGHBOURS_FROM = 0.5
"""Share of the leader's predicted rate: predictions are hardly ever off by more."""
COSTS_SHARE = 0.2
"""Share of the budget, at most, for further rounds of the costs."""
CAPACITIES = {"throughput": 1, "capacity": 3}
"""Finalists whose capacity is measured, by goal."""
CAPACITY_SHARE = 0.5
"""Share of the budget, at most, for their capacities."""
CHEAPER_FROM = 0.95
"""A cheaper one wins where the interval of its rate over the leader's reaches no further down."""
MEMORY_STEP_MIB = 50.0
"""Differences of memory below this are none."""


@dataclass(frozen=True)
class Job:
    """What a search works on.

    Attributes:
        space: who may race.
        agreement: the share of the photos with the label of full precision that a configuration reaches.
    """

    tune: TuneSettings
    serve: ServeSettings
    load: LoadSettings
    objective: ObjectiveSettings
    machine: Machine
    space: Space
    agreement: Callable[[ServeSettings], float]

    @property
    def incumbent(self) -> ServeSettings:
        """The section ``serve``."""
        return canonical(self.serve.model_dump(), self.tune.users, self.machine)

    @property
    def configurations(self) -> list[ServeSettings]:
        """All that may be served, the incumbent first."""
        return list(dict.fromkeys([self.incumbent, *self.space.configurations]))

    @property
    def parts(self) -> list[Part]:
        """All whose costs are measured."""
        return parts_of(self.configurations, self.machine.device, self.machine.cores)


@dataclass(frozen=True)
class Outcome:
    """What a search has found.

    Attributes:
        rows: of all that raced, the winner first.
        left_out: number of configurations that did not race, by reason.
        combinations: of the knobs' values, those that cannot run among them.
        prediction_error: of the predicted rates, relative to each other.
        settled: whether the race ended by itself.
        capacity: of the winner.
    """

    winner: ServeSettings
    rows: list[TuneRow]
    knobs: list[KnobRow]
    left_out: Mapping[str, int]
    combinations: int
    prediction_error: float
    rounds: int
    settled: bool
    capacity: CapacityMetrics | None


def search(job: Job) -> Schedule[Outcome]:
    """Search the configuration that reaches the goal best.

    Its subjects are those of ``job.parts``, and ``job.configurations`` by ``name_of``.

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
    costs = yield from measure_costs(job.parts, plan, COSTS_SHARE * tune.max_s, tune.seed)
    running = [one for one in job.configurations if costs.keys() >= set(part_names(one))]
    if job.incumbent not in running or not set(running).intersection(space.configurations):
        raise LitmeterError("tune: what configurations consist of does not start")
    candidates = _Candidates(job, dict(ranking(running, costs, job.machine.cores, tune.users)))
    racing = Race(tune)
    racing.join(candidates.first())
    best_rps, worst_rps = (pick(candidates.predicted.values()) for pick in (max, min))
    print_wrapped(
        f"2. the costs of the parts predict {worst_rps:.0f} to {best_rps:.0f} req/s; the best "
        f"{len(racing.racers) - 1} race, and serve: ({candidates.predicted[job.incumbent]:.0f} req/s)"
    )
    reserve_s = min(CAPACITIES[tune.goal] * job.objective.max_s, CAPACITY_SHARE * tune.max_s)
    yield from race(racing, plan, tune.max_s - reserve_s, candidates.neighbours)
    print_wrapped(f"3. after {racing.rounds} rounds {racing.standing()}")
    by_capacity = tune.goal == "capacity"
    names = (list(fastest(racing)) if by_capacity else finalists(racing))[: CAPACITIES[tune.goal]]
    objective = job.objective.model_copy(update={"max_s": reserve_s / CAPACITIES[tune.goal]})
    found = yield from capacity(names, objective, job.load.timeout_s)
    capacities = {name: one.metrics for name, one in found.items()}
    highest = highest_capacities(capacities) if by_capacity else []
    ordered = sorted(highest, key=lambda name: cost(racing.racers[name])) or finalists(racing)
    if not ordered:
        broken = sorted({one.constraint_violation for one in racing.racers.values()} - {""})
        raise LitmeterError(f"tune: no configuration keeps to the constraints: {'; '.join(broken)}")
    winner = ordered[0]
    statuses = {name: _status_of(racing, name) for name in racing.racers}
    if highest:
        statuses |= {name: "equal" if name in highest else "slower" for name in capacities}
    statuses[winner] = "winner"
    return Outcome(
        winner=racing.racers[winner].settings,
        rows=[
            _tune_row(racing, name, statuses[name], capacities.get(name))
            for name in _in_order(racing, winner)
        ],
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
    predicted: Mapping[ServeSettings, float]
    reasons: dict[ServeSettings, str] = field(default_factory=dict, init=False)

    def first(self) -> list[Racer]:
        """The incumbent, and the best of the space.

        Of those with the very same prediction the simplest alone races: nothing that was measured tells them
        apart.
        """
        incumbent = self.job.incumbent
        racers = [self._racer(incumbent)]
        taken = {self.predicted[incumbent]} if incumbent in self.job.space.configurations else set()
        for settings, predicted_rps in self.predicted.items():
            if settings == incumbent or len(racers) > RACERS:
                continue
            if predicted_rps in taken:
                self.reasons[settings] = "predicted as fast as a simpler one"
            elif self._agrees(settings):
                taken.add(predicted_rps)
                racers.append(self._racer(settings))
        return racers

    def neighbours(self, leader: ServeSettings) -> list[Racer]:
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
        return Counter(self.job.space.left_out) + Counter(
            self.reasons.get(one, slower if one in self.predicted else failed)
            for one in self.job.space.configurations
            if name_of(one) not in racers
        )

    def _racer(self, settings: ServeSettings) -> Racer:
        return Racer(settings, self.predicted[settings], self.job.agreement(settings))

    def _agrees(self, settings: ServeSettings) -> bool:
        agreement, least = self.job.agreement(settings), self.job.tune.min_agreement
        if agreement < least:
            self.reasons[settings] = too_little(agreement, least)
        return agreement >= least


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
    return (round((racer.memory_mib or 0.0) / MEMORY_STEP_MIB), simplicity(racer.settings))


def _status_of(racing: Race, name: str) -> Status:
    racer, own = racing.racers[name], racing.over_leader(name)
    if racer.constraint_violation or racer.out_of_memory:
        return "excluded"
    if racer.eliminated_after_rounds is not None or own is None:
        return "slower"
    return "equal" if own.equal else "not resolved"


def _in_order(racing: Race, winner: str) -> list[str]:
    """The winner, those that are no slower, and the others by how long they kept up."""
    left = {name: one.eliminated_after_rounds for name, one in racing.racers.items()}
    longest = sorted(left, key=lambda name: -(racing.rounds if (own := left[name]) is None else own))
    return list(dict.fromkeys([winner, *finalists(racing), *longest]))


def _tune_row(racing: Race, name: str, status: Status, capacity: CapacityMetrics | None) -> TuneRow:
    racer = racing.racers[name]
    rates = [rate for rate in racer.rates if rate]
    over_serve = racing.ratio(name, racing.reference)
    return TuneRow(
        name=name,
        status=status,
        incumbent=name == racing.reference,
        **{knob: getattr(racer.settings, knob) for knob in KNOBS},
        predicted_rps=round(racer.predicted_rps, 1),
        rate_rps=round(geometric_mean(rates), 1) if rates else None,
        **ratio_columns(racing.over_leader(name), "ratio", "ratio_low", "ratio_high"),
        **ratio_columns(over_serve, "over_serve", "over_serve_low", "over_serve_high"),
        p95_ms=rounded(racer.latency_ms(95), 1),
        memory_mib=rounded(racer.memory_mib, 0),
        agreement=round(racer.agreement, 4),
        failed=racer.failed,
        rounds=racer.rounds,
        eliminated_after_rounds=racer.eliminated_after_rounds,
        capacity_rps=rounded(capacity.capacity_rps if capacity else None, 1),
        capacity_low_rps=rounded(capacity.low_rps if capacity else None, 1),
        capacity_high_rps=rounded(capacity.high_rps if capacity else None, 1),
        reason=racer.constraint_violation or ("no memory for its server" if racer.out_of_memory else ""),
    )


def _knob_rows(predicted: Mapping[ServeSettings, float], racing: Race, winner: str) -> list[KnobRow]:
    """For each knob and each of its other values in ``predicted``: the rate over the winner's.

    Args:
        predicted: rates by configuration, the winner among them.
    """
    best, rows = racing.racers[winner].settings, []
    for settings, predicted_rps in predicted.items():
        changed = changed_knobs(settings, best)
        if len(changed) != 1:
            continue
        [knob] = changed
        if knob == WORKERS_TIMES_THREADS:
            value = workers_times_threads(settings)
        else:
            value = json.dumps(getattr(settings, knob)).strip('"')
        measured = racing.ratio(name_of(settings), winner)
        own = measured or Ratio(predicted_rps / predicted[best], None, None)
        figures = (round(own.ratio, 3), rounded(own.low, 3), rounded(own.high, 3))
        rows.append(KnobRow(knob, value, *figures, "measured" if measured else "predicted"))
    order = [*KNOBS[: KNOBS.index("workers_per_device")], WORKERS_TIMES_THREADS, *KNOBS]
    return sorted(rows, key=lambda row: (order.index(row.knob), -row.ratio))
