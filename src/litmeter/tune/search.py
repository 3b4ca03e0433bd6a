"""The whole search, from the space to the winner, its capacity, and what each knob is worth."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from litmeter.errors import LitmeterError
from litmeter.measure.capacity import CapacityMetrics, capacity
from litmeter.measure.turn import Schedule
from litmeter.params import KNOBS, LoadSettings, ObjectiveSettings, ServeSettings, TuneSettings
from litmeter.stats.comparison import Ratio
from litmeter.system.files import rounded
from litmeter.system.progress import print_wrapped
from litmeter.tune.costs import Costs, Part, measure_costs, part_names, parts_of, ranking
from litmeter.tune.race import Race, Racer, is_equal, plan_of, race, too_little
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
"""Of the leader's predicted rate: predictions are hardly ever off by more."""
COSTS_SHARE = 0.2
"""Of the budget, at most, for further rounds of the costs."""
CAPACITIES = {"throughput": 1, "capacity": 3}
"""Finalists whose capacity is measured, by goal."""
CAPACITY_SHARE = 0.5
"""Of the budget, at most, for their capacities."""
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
    tune = job.tune
    number, left_out = len(job.space.configurations), reasons_text(job.space.left_out)
    if not number:
        raise LitmeterError(f"tune: no configuration can run: {left_out}")
    print_wrapped(f"1. {number} configurations can run; left out: {left_out}")
    plan = plan_of(job.load, tune.users)
    costs = yield from measure_costs(job.parts, plan, COSTS_SHARE * tune.max_s, tune.seed)
    candidates = Candidates(job, costs)
    racing = Race(tune)
    racing.join(candidates.first())
    incumbent_rps = racing.racers[racing.reference].predicted_rps
    best_rps, worst_rps = candidates.ranked[0][1], candidates.ranked[-1][1]
    print_wrapped(
        f"2. the costs of the parts predict {worst_rps:.0f} to {best_rps:.0f} req/s; the best "
        f"{len(racing.racers) - 1} race, and serve: ({incumbent_rps:.0f} req/s)"
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
    statuses = {name: status_of(racing, name) for name in racing.racers}
    if highest:
        statuses |= {name: "equal" if name in highest else "slower" for name in capacities}
    statuses[winner] = "winner"
    return Outcome(
        winner=racing.racers[winner].settings,
        rows=[
            tune_row(racing, name, statuses[name], capacities.get(name)) for name in in_order(racing, winner)
        ],
        knobs=knob_rows(candidates.ranked, racing, winner),
        left_out=candidates.left_out(racing.racers),
        combinations=len(job.space.configurations) + sum(job.space.left_out.values()),
        prediction_error=racing.prediction_error(),
        rounds=racing.rounds,
        settled=racing.settled(),
        capacity=capacities.get(winner),
    )


@dataclass
class Candidates:
    """Who may race.

    Attributes:
        ranked: those whose parts run, with predicted rates, fastest first.
        reasons: why some of them do not race.

    Raises:
        LitmeterError: a part of the incumbent, or of all others, did not start.
    """

    job: Job
    costs: Costs
    ranked: list[tuple[ServeSettings, float]] = field(init=False)
    reasons: dict[ServeSettings, str] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        running = [
            one for one in self.job.configurations if all(name in self.costs for name in part_names(one))
        ]
        if self.job.incumbent not in running or not set(running).intersection(self.job.space.configurations):
            raise LitmeterError("tune: what configurations consist of does not start")
        self.ranked = ranking(running, self.costs, self.job.machine.cores, self.job.tune.users)

    def first(self) -> list[Racer]:
        """The incumbent, and the best of the space.

        Of those with the very same prediction the simplest alone races: nothing that was measured tells them
        apart.
        """
        predicted = dict(self.ranked)
        incumbent = self.job.incumbent
        racers = [Racer(incumbent, predicted[incumbent], self.job.agreement(incumbent))]
        taken = {predicted[incumbent]} if incumbent in self.job.space.configurations else set()
        for settings, predicted_rps in self._of_space():
            if predicted_rps in taken:
                self.reasons[settings] = "predicted as fast as a simpler one"
            elif self._agrees(settings):
                taken.add(predicted_rps)
                racers.append(Racer(settings, predicted_rps, self.job.agreement(settings)))
                if len(racers) > RACERS:
                    break
        return racers

    def neighbours(self, leader: ServeSettings) -> list[Racer]:
        """Those that differ from the leader by one knob, and are not predicted to be far slower."""
        least_rps = NEIGHBOURS_FROM * dict(self.ranked)[leader]
        return [
            Racer(settings, predicted_rps, self.job.agreement(settings))
            for settings, predicted_rps in self._of_space()
            if predicted_rps >= least_rps
            and len(changed_knobs(settings, leader)) == 1
            and self._agrees(settings)
        ]

    def left_out(self, racers: Mapping[str, Racer]) -> Mapping[str, int]:
        """Number of configurations by the reason why they did not race."""
        others = (one for one in self.job.space.configurations if name_of(one) not in racers)
        runs = dict(self.ranked)
        slower, failed = "predicted to be slower", "a part of it does not start"
        reasons = (self.reasons.get(one, slower if one in runs else failed) for one in others)
        return Counter(self.job.space.left_out) + Counter(reasons)

    def _of_space(self) -> Iterator[tuple[ServeSettings, float]]:
        """All but the incumbent, which races anyway and may lie outside of the space."""
        return (pair for pair in self.ranked if pair[0] != self.job.incumbent)

    def _agrees(self, settings: ServeSettings) -> bool:
        agreement, least = self.job.agreement(settings), self.job.tune.min_agreement
        if agreement < least:
            self.reasons[settings] = too_little(agreement, least)
        return agreement >= least


def reasons_text(left_out: Mapping[str, int]) -> str:
    """Why configurations are left out, the most frequent reason first."""
    ordered = sorted(left_out.items(), key=lambda item: -item[1])
    return "; ".join(f"{number}: {reason}" for reason, number in ordered) or "none"


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
    ratios = {name: racing.over_leader(name) for name in racing.remaining}
    return dict(sorted(((name, own) for name, own in ratios.items() if own), key=lambda pair: -pair[1].ratio))


def finalists(racing: Race) -> list[str]:
    """Those that remain: first the cheapest of the ones that are hardly slower than the leader."""
    ratios = fastest(racing)
    as_fast = [name for name, own in ratios.items() if own.low is not None and own.low >= CHEAPER_FROM]
    others = [name for name in ratios if name not in as_fast]
    return sorted(as_fast, key=lambda name: cost(racing.racers[name])) + others


def cost(racer: Racer) -> tuple[object, ...]:
    """What is cheaper sorts first: less memory, in steps, then what is simpler."""
    return (round((racer.memory_mib or 0.0) / MEMORY_STEP_MIB), simplicity(racer.settings))


def status_of(racing: Race, name: str) -> Status:
    """What became of a configuration in the race, as ``TuneRow`` has it."""
    racer, own = racing.racers[name], racing.over_leader(name)
    if racer.constraint_violation or racer.out_of_memory:
        return "excluded"
    if racer.eliminated_after_rounds is not None or own is None:
        return "slower"
    return "equal" if is_equal(own) else "not resolved"


def in_order(racing: Race, winner: str) -> list[str]:
    """The winner, those that are no slower, and the others by how long they kept up."""

    def kept_up(name: str) -> int:
        eliminated = racing.racers[name].eliminated_after_rounds
        return racing.rounds if eliminated is None else eliminated

    first = dict.fromkeys([winner, *finalists(racing)])
    return list(first | dict.fromkeys(sorted(racing.racers, key=kept_up, reverse=True)))


def tune_row(racing: Race, name: str, status: Status, capacity: CapacityMetrics | None) -> TuneRow:
    """The row of a configuration."""
    racer = racing.racers[name]
    rates = [rate for rate in racer.rates if rate]
    return TuneRow(
        name=name,
        status=status,
        incumbent=name == racing.reference,
        **{knob: getattr(racer.settings, knob) for knob in KNOBS},
        predicted_rps=round(racer.predicted_rps, 1),
        rate_rps=round(float(np.exp(np.mean(np.log(rates)))), 1) if rates else None,
        **_ratio_columns("ratio", racing.over_leader(name)),
        **_ratio_columns("over_serve", racing.ratio(name, racing.reference)),
        p95_ms=rounded(racer.latency_ms(95), 1),
        memory_mib=rounded(racer.memory_mib, 0),
        agreement=round(racer.agreement, 4),
        failed=racer.failed,
        rounds=racer.rounds,
        eliminated_after_rounds=racer.eliminated_after_rounds,
        capacity_rps=rounded(capacity.capacity_rps, 1) if capacity else None,
        capacity_low_rps=rounded(capacity.low_rps, 1) if capacity else None,
        capacity_high_rps=rounded(capacity.high_rps, 1) if capacity else None,
        reason=racer.constraint_violation or ("no memory for its server" if racer.out_of_memory else ""),
    )


def _ratio_columns(column: str, own: Ratio | None) -> dict[str, Any]:
    """A ratio with its interval, as three columns."""
    values = (own.ratio, own.low, own.high) if own else (None, None, None)
    names = (column, f"{column}_low", f"{column}_high")
    return {name: rounded(value, 4) for name, value in zip(names, values, strict=True)}


def knob_rows(ranked: Iterable[tuple[ServeSettings, float]], racing: Race, winner: str) -> list[KnobRow]:
    """For each knob and each of its other values in ``ranked``: the rate over the winner's.

    Args:
        ranked: configurations with predicted rates, the winner among them.
    """
    predicted, best = dict(ranked), racing.racers[winner].settings
    rows = []
    for settings, predicted_rps in predicted.items():
        changed = changed_knobs(settings, best)
        if len(changed) != 1:
            continue
        [knob], name = changed, name_of(settings)
        own = racing.ratio(name, winner)
        workers = knob == WORKERS_TIMES_THREADS
        rows.append(
            KnobRow(
                knob,
                workers_times_threads(settings)
                if workers
                else json.dumps(getattr(settings, knob)).strip('"'),
                round(own.ratio if own else predicted_rps / predicted[best], 3),
                rounded(own.low, 3) if own else None,
                rounded(own.high, 3) if own else None,
                "measured" if own else "predicted",
            )
        )
    order = [*KNOBS[: KNOBS.index("workers_per_device")], WORKERS_TIMES_THREADS, *KNOBS]
    return sorted(rows, key=lambda row: (order.index(row.knob), -row.ratio))
