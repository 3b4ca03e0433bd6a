"""The whole search, from the space to the winner, its capacity, and what each knob is worth."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np

from litmeter.errors import LitmeterError
from litmeter.load import LoadGenerator, load_generator
from litmeter.measure.capacity import CapacityMetrics, CoreSpeeds, measure_capacity
from litmeter.model.answers import answers_of
from litmeter.model.reference import Reference
from litmeter.params import KNOBS, LoadSettings, ObjectiveSettings, ServeSettings, TuneSettings
from litmeter.paths import ModelFolders
from litmeter.serve.client import CONTENT_TYPES
from litmeter.serve.launcher import running_server
from litmeter.stats.comparison import Ratio
from litmeter.system.files import rounded
from litmeter.system.progress import print_wrapped
from litmeter.tune.costs import CostMeter, Costs, predicted_rps, ranking
from litmeter.tune.race import EQUAL_WITHIN, Race, Racer, RaceTrack, is_equal, too_little
from litmeter.tune.record import Record
from litmeter.tune.rows import KnobRow, Status, TuneRow
from litmeter.tune.space import Machine, Space, canonical, name_of, simplicity, space_of

RACERS, MORE_RACERS = 16, 8
"""The best by prediction race; if the predictions turn out bad, so do the next best."""
CAPACITIES = {"throughput": 1, "capacity": 3}
"""Finalists whose capacity is measured, by goal."""
CAPACITY_SHARE = 0.5
"""Of the budget, at most, for their capacities."""
MEMORY_STEP_MIB = 50.0
"""Differences of memory below this are none."""
TOGETHER = {"workers_per_device", "threads_per_worker"}
"""Knobs of which one leaves less to the other."""


@dataclass(frozen=True)
class Job:
    """What a search works on.

    Attributes:
        photos: image files; ``bodies`` is what users send of them.
        reference: the answers in full precision.
    """

    tune: TuneSettings
    serve: ServeSettings
    load: LoadSettings
    objective: ObjectiveSettings
    folders: ModelFolders
    photos: Sequence[Path]
    bodies: Sequence[bytes]
    reference: Reference
    machine: Machine


@dataclass(frozen=True)
class Outcome:
    """What a search has found.

    Attributes:
        rows: of all that raced, the winner first.
        left_out: number of configurations that did not race, by reason.
        model_error: of the predicted rates, relative to each other.
        settled: whether the race ended by itself.
        capacity: of the winner.
    """

    winner: ServeSettings
    rows: list[TuneRow]
    knobs: list[KnobRow]
    left_out: Mapping[str, int]
    combinations: int
    model_error: float
    rounds: int
    seconds: float
    settled: bool
    capacity: CapacityMetrics | None


@dataclass(frozen=True)
class Field:
    """Who may race.

    Attributes:
        incumbent: the section ``serve``.
        first: the best by prediction; ``more`` are the next best.
        left_out: number of configurations by the reason why they do not race.
    """

    incumbent: Racer
    first: list[Racer]
    more: list[Racer]
    space: Space
    costs: Costs
    left_out: Mapping[str, int]


def search(job: Job, record: Record) -> Outcome:
    """Search the configuration that reaches the goal best.

    Raises:
        LitmeterError: no configuration can run or keeps to the constraints, or a model, server, load
            generator or the record failed.
    """
    started, tune, machine = monotonic(), job.tune, job.machine
    end = started + tune.max_s
    reserve_s = min(CAPACITIES[tune.goal] * job.objective.max_s, CAPACITY_SHARE * tune.max_s)
    load = job.load.model_copy(update={"users": (tune.users,)})
    with load_generator(job.bodies, CONTENT_TYPES[load.request_body]) as generator:
        field = choose_racers(job, load, record, generator)
        track = RaceTrack(tune, load, job.folders, machine.device, generator, record, end - reserve_s)
        track.run([field.incumbent, *field.first], field.more)
        print_wrapped(f"3. after {track.race.rounds} rounds {track.standing()}")
        capacities = measure_capacities(track, job, end)
    result = FinishedRace(track, capacities, tune.goal == "capacity")
    winner = result.winner()
    if winner is None:
        broken = sorted({one.broken for one in track.racers.values() if one.broken})
        raise LitmeterError(f"tune: no configuration keeps to the constraints: {'; '.join(broken)}")
    space = field.space
    return Outcome(
        winner=track.racers[winner].settings,
        rows=tune_rows(result),
        knobs=knob_rows(space.configurations, result, field.costs, machine.cores, tune.users),
        left_out=field.left_out,
        combinations=len(space.configurations) + sum(space.left_out.values()),
        model_error=track.model_error(),
        rounds=track.race.rounds,
        seconds=monotonic() - started,
        settled=track.race.settled(),
        capacity=capacities.get(winner),
    )


def choose_racers(job: Job, load: LoadSettings, record: Record, generator: LoadGenerator) -> Field:
    """Leave out what cannot run, measure the costs, and take the best by prediction.

    Raises:
        LitmeterError: no configuration can run, or a model or a server with a null model failed.
    """
    tune, machine = job.tune, job.machine
    cores, device = machine.cores, machine.device
    space = space_of(tune, job.serve, machine)
    if not space.configurations:
        raise LitmeterError(f"tune: no configuration can run: {reasons(space.left_out)}")
    print_wrapped(
        f"1. {len(space.configurations)} configurations can run; left out: {reasons(space.left_out)}"
    )
    serve = canonical(job.serve.model_dump(), tune.users, machine)
    meter = CostMeter(record, job.folders, device, cores, job.photos, generator, load)
    costs = meter.costs_of([*space.configurations, serve])
    ranked = ranking(space.configurations, costs, cores, tune.users)
    predicted = predicted_rps(serve, costs, cores, tune.users)
    incumbent = Racer(serve, predicted, agreement_of(serve, job, record))
    left_out = Counter(space.left_out)
    best = eligible(ranked, job, record, left_out)
    others = (one for one in best if one.name != incumbent.name)
    first, more = list(islice(others, RACERS)), list(islice(others, MORE_RACERS))
    chosen = {one.settings for one in (*first, *more)}
    left_out["predicted to be slower"] = len(set(space.configurations) - chosen - {serve}) - (
        sum(left_out.values()) - sum(space.left_out.values())
    )
    print_wrapped(
        f"2. the costs of the parts predict {ranked[-1][1]:.0f} to {ranked[0][1]:.0f} req/s; the best "
        f"{len(first)} race, and serve: ({incumbent.predicted_rps:.0f} req/s)"
    )
    return Field(incumbent, first, more, space, costs, left_out)


def eligible(
    ranked: Sequence[tuple[ServeSettings, float]],
    job: Job,
    record: Record,
    left_out: Counter[str],
) -> Iterator[Racer]:
    """The configurations that may race, in the order of ``ranked``.

    Of those with the very same prediction the simplest alone races: nothing that was measured tells them
    apart. Those that agree too little with full precision are counted in ``left_out``.
    """
    last, least = None, job.tune.min_agreement
    for settings, predicted in ranked:
        if predicted == last:
            left_out["predicted as fast as a simpler one"] += 1
            continue
        agreement = agreement_of(settings, job, record)
        if agreement < least:
            left_out[too_little(agreement, least)] += 1
            continue
        last = predicted
        yield Racer(settings, predicted, agreement)


def agreement_of(settings: ServeSettings, job: Job, record: Record) -> float:
    """Share of the photos with the label of full precision, by what the answers depend on.

    Photos that the model was fitted to are left out: with them it agrees too well.

    Raises:
        LitmeterError: the model cannot be run.
    """
    key = f"{settings.precision}, {settings.preprocess}, {'compiled' if settings.compiled else 'eager'}"
    kept = record.costs("agreement").get(key)
    if kept is not None:
        return float(kept)
    numbers = [number for number, split in enumerate(job.reference.splits) if split != "train"]
    chosen = [job.photos[number] for number in numbers]
    [answers] = answers_of(job.folders, job.machine.device, [settings], chosen)
    expected = job.reference.probabilities[numbers].argmax(axis=1)
    found = float((answers.argmax(axis=1) == expected).mean())
    record.keep_cost("agreement", key, found)
    return found


def measure_capacities(track: RaceTrack, job: Job, end: float) -> dict[str, CapacityMetrics]:
    """The capacity of the winner by rate, or of the fastest, as the goal is.

    Args:
        end: of the whole search, on the monotonic clock.

    Raises:
        ServerError: a server did not start, or died; LoadError: the load generator failed.
    """
    names = list(fastest(track.race))[: CAPACITIES[job.tune.goal]]
    if job.tune.goal == "throughput":
        winner = FinishedRace(track, {}, by_capacity=False).winner()
        names = [winner] if winner else []
    return {
        name: capacity_of(track, track.racers[name], job, end, len(names) - number)
        for number, name in enumerate(names)
    }


def capacity_of(track: RaceTrack, racer: Racer, job: Job, end: float, remaining: int) -> CapacityMetrics:
    """The capacity of a finalist, unless it is on record.

    Args:
        end: of the whole search, on the monotonic clock.
        remaining: capacities that are still to be measured by then, this one included.

    Raises:
        ServerError: the server did not start, or died; LoadError: the load generator failed.
    """
    objective = job.objective
    how = objective.model_dump(include={"slo_ms", "miss", "tolerance", "probe_requests", "seed"})
    key = f"{racer.name}, {how}"
    kept = track.record.costs("capacity")
    if key in kept:
        return CapacityMetrics(**kept[key])
    timeout_s = job.load.timeout_s
    with (
        running_server(job.folders, racer.settings, job.machine.device, timeout_s) as server,
        CoreSpeeds() as cores,
    ):
        own_s = max(1.0, min(objective.max_s, (end - monotonic()) / remaining))
        limited = objective.model_copy(update={"max_s": own_s})
        found = measure_capacity(
            track.generator, f"{server.url}/predict", limited, timeout_s, racer.name, server.check, cores
        ).metrics
    if found.status != "unresolved":
        track.record.keep_cost("capacity", key, asdict(found))
    return found


def reasons(left_out: Mapping[str, int]) -> str:
    """Why configurations are left out, the most frequent reason first."""
    ordered = sorted(left_out.items(), key=lambda item: -item[1])
    return "; ".join(f"{number}: {reason}" for reason, number in ordered) or "none"


@dataclass(frozen=True)
class FinishedRace:
    """A race that is over.

    Attributes:
        capacities: of finalists.
        by_capacity: whether the capacity decides, not the rate.
    """

    track: RaceTrack
    capacities: Mapping[str, CapacityMetrics]
    by_capacity: bool

    def winner(self) -> str | None:
        """The cheapest of the fastest; None where none has answered and keeps to all constraints."""
        if self.by_capacity and (names := self._highest_capacities()):
            return min(names, key=lambda name: cost(self.track.racers[name]))
        return next(iter(finalists(self.track.race, self.track.racers)), None)

    def status(self, name: str) -> Status:
        """See ``TuneRow``."""
        if self.track.racers[name].broken or name in self.track.unserved:
            return "excluded"
        if name == self.winner():
            return "winner"
        highest = self._highest_capacities() if self.by_capacity else []
        if highest and name in self.capacities:
            return "equal" if name in highest else "slower"
        race = self.track.race
        leader = race.leader()
        own = race.ratio(name, leader) if leader else None
        if name in race.lost or own is None:
            return "slower"
        return "equal" if is_equal(own) else "not resolved"

    def _highest_capacities(self) -> list[str]:
        """Those whose capacity's interval overlaps that of the highest one; of "above_range" the low end."""
        lows = {name: one.low_rps for name, one in self.capacities.items() if one.low_rps is not None}
        if not lows:
            return []
        best = max(lows, key=lambda name: self.capacities[name].capacity_rps or lows[name])
        highs = {name: self.capacities[name].high_rps for name in lows}
        return [name for name, high in highs.items() if high is None or high >= lows[best]]


def fastest(race: Race) -> dict[str, float]:
    """Those that have not lost, with their share of the leader's rate, the highest first."""
    leader = race.leader()
    shares = {name: own.ratio for name in race.remaining if leader and (own := race.ratio(name, leader))}
    return dict(sorted(shares.items(), key=lambda one: -one[1]))


def finalists(race: Race, racers: Mapping[str, Racer]) -> list[str]:
    """Those that have not lost: first the ones within 3% of the leader, cheapest first; then by rate."""
    shares = fastest(race)
    as_fast = [name for name in race.remaining if shares.get(name, 0.0) >= 1 - EQUAL_WITHIN]
    others = [name for name in shares if name not in as_fast]
    return sorted(as_fast, key=lambda name: cost(racers[name])) + others


def cost(racer: Racer) -> tuple[object, ...]:
    """What is cheaper sorts first: less memory, in steps, then what is simpler."""
    return (round((racer.memory_mib or 0.0) / MEMORY_STEP_MIB), simplicity(racer.settings))


def tune_rows(result: FinishedRace) -> list[TuneRow]:
    """A row per racer: the winner, those that are no slower, and the others by how long they kept up."""
    race, racers, winner = result.track.race, result.track.racers, result.winner()
    first = [winner, *(name for name in finalists(race, racers) if name != winner)]
    others = sorted(
        (name for name in racers if name not in first),
        key=lambda name: -race.lost.get(name, race.rounds),
    )
    return [_row(result, name) for name in [*first, *others] if name is not None]


def _row(result: FinishedRace, name: str) -> TuneRow:
    race, racer = result.track.race, result.track.racers[name]
    leader = race.leader()
    rates = [rate for rate in race.rates[name] if rate]
    capacity = result.capacities.get(name)
    return TuneRow(
        name=name,
        status=result.status(name),
        incumbent=name == race.reference,
        **{knob: getattr(racer.settings, knob) for knob in KNOBS},
        predicted_rps=round(racer.predicted_rps, 1),
        rate_rps=round(float(np.exp(np.mean(np.log(rates)))), 1) if rates else None,
        **_ratio_columns("ratio", race.ratio(name, leader) if leader else None),
        **_ratio_columns("over_serve", race.ratio(name, race.reference)),
        p95_ms=rounded(racer.p95_ms, 1),
        memory_mib=rounded(racer.memory_mib, 0),
        agreement=round(racer.agreement, 4),
        failed=racer.failed,
        rounds=sum(rate is not None for rate in race.rates[name]),
        lost_after=race.lost.get(name),
        capacity_rps=rounded(capacity.capacity_rps, 1) if capacity else None,
        capacity_low_rps=rounded(capacity.low_rps, 1) if capacity else None,
        capacity_high_rps=rounded(capacity.high_rps, 1) if capacity else None,
        reason=racer.broken or ("no memory for its server" if name in result.track.unserved else ""),
    )


def _ratio_columns(column: str, own: Ratio | None) -> dict[str, Any]:
    """A ratio with its interval, as three columns."""
    values = (own.ratio, own.low, own.high) if own else (None, None, None)
    names = (column, f"{column}_low", f"{column}_high")
    return {name: rounded(value, 4) for name, value in zip(names, values, strict=True)}


def knob_rows(
    configurations: Sequence[ServeSettings], result: FinishedRace, costs: Costs, cores: int, users: int
) -> list[KnobRow]:
    """For each knob and each of its other values in ``configurations``: the rate over the winner's."""
    winner = result.winner()
    if winner is None:
        return []
    race, racers = result.track.race, result.track.racers
    best = racers[winner].settings
    best_rps = predicted_rps(best, costs, cores, users)
    rows = []
    for settings in configurations:
        changed = [knob for knob in KNOBS if getattr(settings, knob) != getattr(best, knob)]
        if not changed or (len(changed) > 1 and not set(changed) <= TOGETHER):
            continue
        together = changed[0] in TOGETHER
        name = name_of(settings)
        own = race.ratio(name, winner) if name in racers else None
        ratio = own.ratio if own else predicted_rps(settings, costs, cores, users) / best_rps
        threads = settings.threads_per_worker or "all"
        rows.append(
            KnobRow(
                "workers x threads" if together else changed[0],
                f"{settings.workers_per_device}x{threads}"
                if together
                else json.dumps(getattr(settings, changed[0])).strip('"'),
                round(ratio, 3),
                rounded(own.low, 3) if own else None,
                rounded(own.high, 3) if own else None,
                "measured" if own else "predicted",
            )
        )
    order = {"workers x threads": KNOBS.index("workers_per_device"), **{k: n for n, k in enumerate(KNOBS)}}
    return sorted(rows, key=lambda row: (order[row.knob], -row.ratio))
