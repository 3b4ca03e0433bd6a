"""The whole search, from the space to the winner and its capacity."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from time import monotonic

from litmeter.benchmark.capacity import CapacityMetrics, CoreSpeeds, measure_capacity
from litmeter.errors import LitmeterError
from litmeter.inference.reference import Reference
from litmeter.loadgen import LoadGenerator, load_generator
from litmeter.params import LoadSettings, ObjectiveSettings, ServeSettings, TuneSettings
from litmeter.paths import ModelFolders
from litmeter.serving.client import CONTENT_TYPES
from litmeter.serving.launcher import running_server
from litmeter.system.progress import print_wrapped
from litmeter.tune.costs import CostMeter
from litmeter.tune.outcome import Result, fastest, knob_rows, tune_rows
from litmeter.tune.prediction import Costs, predicted_rps
from litmeter.tune.racers import Agreements, Racer, eligible, ranking
from litmeter.tune.rows import KnobRow, TuneRow
from litmeter.tune.space import Machine, Space, canonical, space_of
from litmeter.tune.study import Study
from litmeter.tune.track import RaceTrack

RACERS, MORE_RACERS = 16, 8
"""The best by prediction race; if the predictions turn out bad, so do the next best."""
CAPACITIES = {"throughput": 1, "capacity": 3}
"""Finalists whose capacity is measured, by goal."""
CAPACITY_SHARE = 0.5
"""Of the budget, at most, for their capacities."""


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


def search(job: Job, study: Study) -> Outcome:
    """Search the configuration that reaches the goal best.

    Raises:
        LitmeterError: no configuration can run or keeps to the constraints, or a model, server, load
            generator or the study's storage failed.
    """
    started, tune, machine = monotonic(), job.tune, job.machine
    end = started + tune.max_s
    reserve_s = min(CAPACITIES[tune.goal] * job.objective.max_s, CAPACITY_SHARE * tune.max_s)
    load = job.load.model_copy(update={"users": (tune.users,)})
    with load_generator(job.bodies, CONTENT_TYPES[load.request_body]) as generator:
        field = choose_racers(job, load, study, generator)
        track = RaceTrack(tune, load, job.folders, machine.device, generator, study, end - reserve_s)
        track.run([field.incumbent, *field.first], field.more)
        print_wrapped(f"3. after {track.race.rounds} rounds {track.standing()}")
        capacities = measure_capacities(track, job, study, generator, end)
    result = Result(track.race, track.racers, track.unserved, capacities, tune.goal == "capacity")
    winner = result.winner()
    if winner is None:
        broken = sorted({one.broken for one in track.racers.values() if one.broken})
        raise LitmeterError(f"tune: no configuration keeps to the constraints: {'; '.join(broken)}")
    rows = tune_rows(result)
    for row in rows:
        settings = track.racers[row.name].settings
        study.keep_trial(row.name, settings, row.over_serve, status=row.status, rate_rps=row.rate_rps)
    space = field.space
    return Outcome(
        winner=track.racers[winner].settings,
        rows=rows,
        knobs=knob_rows(space.configurations, result, field.costs, machine.cores, tune.users),
        left_out=field.left_out,
        combinations=len(space.configurations) + sum(space.left_out.values()),
        model_error=track.model_error(),
        rounds=track.race.rounds,
        seconds=monotonic() - started,
        settled=track.race.settled(),
        capacity=capacities.get(winner),
    )


def choose_racers(job: Job, load: LoadSettings, study: Study, generator: LoadGenerator) -> Field:
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
    meter = CostMeter(study, job.folders, device, cores, job.photos, generator, load)
    costs = meter.costs_of([*space.configurations, serve])
    ranked = ranking(space.configurations, costs, cores, tune.users)
    agreements = Agreements(study, job.folders, device, job.photos, job.reference)
    incumbent = Racer.of(serve, predicted_rps(serve, costs, cores, tune.users), agreements.of(serve))
    left_out = Counter(space.left_out)
    best = eligible(ranked, agreements, tune.min_agreement, left_out)
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


def measure_capacities(
    track: RaceTrack, job: Job, study: Study, generator: LoadGenerator, end: float
) -> dict[str, CapacityMetrics]:
    """The capacity of the winner by rate, or of the fastest, as the goal is.

    Args:
        end: of the whole search, on the monotonic clock.

    Raises:
        ServerError: a server did not start, or died; LoadError: the load generator failed.
    """
    names = fastest(track.race, CAPACITIES[job.tune.goal])
    if job.tune.goal == "throughput":
        winner = Result(track.race, track.racers, track.unserved, {}, by_capacity=False).winner()
        names = [winner] if winner else []
    return {
        name: capacity_of(track.racers[name], end, len(names) - number, job, study, generator)
        for number, name in enumerate(names)
    }


def capacity_of(
    racer: Racer, end: float, remaining: int, job: Job, study: Study, generator: LoadGenerator
) -> CapacityMetrics:
    """The capacity of a finalist, unless the study has it.

    Args:
        end: of the whole search, on the monotonic clock.
        remaining: capacities that are still to be measured by then, this one included.

    Raises:
        ServerError: the server did not start, or died; LoadError: the load generator failed.
    """
    objective = job.objective
    how = objective.model_dump(include={"slo_ms", "miss", "tolerance", "probe_requests", "seed"})
    key = f"{racer.name}, {how}"
    kept = study.costs("capacity")
    if key in kept:
        return CapacityMetrics(**kept[key])
    timeout_s = job.load.timeout_s
    with (
        running_server(job.folders, racer.settings, job.machine.device, timeout_s) as server,
        CoreSpeeds() as cores,
    ):
        own_s = max(1.0, min(objective.max_s, (end - monotonic()) / remaining))
        limited = objective.model_copy(update={"max_s": own_s})
        url = f"{server.url}/predict"
        found = measure_capacity(generator, url, limited, timeout_s, racer.name, server.check, cores).metrics
    if found.status != "unresolved":
        study.keep_cost("capacity", key, asdict(found))
    return found


def reasons(left_out: Mapping[str, int]) -> str:
    """Why configurations are left out, the most frequent reason first."""
    ordered = sorted(left_out.items(), key=lambda item: -item[1])
    return "; ".join(f"{number}: {reason}" for reason, number in ordered) or "none"
