"""The schedule of a benchmark: one configuration alone at each number of users, and what its server costs."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from litmeter.load import LoadPlan
from litmeter.measure.rows import TurnRow
from litmeter.measure.turn import Sample, Schedule, Turn, measure, serve
from litmeter.params import LoadSettings
from litmeter.stats.records import OK, WINDOWS

NULL_SERVER = "null server"
"""The subject that is the same server with a model that does nothing."""
SECONDS = 15.0
"""From when the servers are ready on; a slow configuration's levels run once."""
FIRST_ANSWERS_S = 4.0
"""Who takes longer for its users' first answers is slow: see ``figures.rate_of``."""
NULL_S = 1.0
"""Seconds of three windows: enough for rates of hundreds of requests per second."""


@dataclass(frozen=True)
class Alone:
    """What a configuration did alone.

    Attributes:
        ready_s: from its start to its first 200.
        answers: index of the body, and the answer's body, of each good answer.
    """

    ready_s: float | None
    answers: Sequence[tuple[int, bytes]]


def levels(
    name: str, load: LoadSettings, bodies: int, tested: Sequence[int], seconds: float = SECONDS
) -> Schedule[Alone]:
    """Load ``name`` at each number of users, again in the reverse order, and its null server at the most.

    So the level that is fastest in the first runs is reported from a second one, which had no part in the
    choice.

    Args:
        bodies: number of request bodies.
        tested: indices of those whose answers are needed; they are sent first.
    """
    serving = yield from serve([name, NULL_SERVER])
    answers: list[tuple[int, bytes]] = []
    longest_s = 0.0
    for number, order in enumerate((load.users, load.users[::-1])):
        for users in order:
            plan = level_plan(load, users, number)
            plan = replace(plan, bodies=tested_first(plan, bodies, tested, answers))
            note = f"{name}: {users} users"
            sample = yield from measure(Turn(name, plan, number, note=note))
            answers += good_answers(sample)
            longest_s = max(longest_s, sample.row.seconds)
            if number and sample.ended_s - serving.at_s + longest_s > seconds:
                break
        if sample.ended_s - serving.at_s + longest_s > seconds:
            break
    yield from measure(Turn(NULL_SERVER, null_plan(load)))
    return Alone(serving.ready_s.get(name), answers)


def level_plan(load: LoadSettings, users: int, number: int) -> LoadPlan:
    """The load of one level.

    Args:
        number: of the run, so that each has an order of its own.
    """
    return LoadPlan(
        users=users,
        requests=load.requests,
        warmup_s=load.warmup_s,
        min_s=load.min_s,
        max_s=load.max_s,
        max_windows=WINDOWS,
        timeout_s=load.timeout_s,
        seed=load.seed,
        repeat=number,
        give_up_s=FIRST_ANSWERS_S,
    )


def null_plan(load: LoadSettings) -> LoadPlan:
    """The load of a server that does nothing: at the most users, for a second."""
    plan = level_plan(load, max(load.users), 0)
    seconds = min(load.min_s, NULL_S)
    return replace(plan, requests=1, min_s=seconds, max_s=seconds, give_up_s=None)


def tested_first(
    plan: LoadPlan, bodies: int, tested: Sequence[int], answers: Sequence[tuple[int, bytes]]
) -> list[int]:
    """The order of the bodies: first those of ``tested`` without an answer yet, then the others."""
    answered = {body for body, _ in answers}
    missing = [body for body in tested if body not in answered]
    others = [body for body in range(bodies) if body not in set(missing)]
    rng = random.Random(plan.random_seed)
    rng.shuffle(missing)  # they are in the order of their classes
    rng.shuffle(others)
    return missing + others


def good_answers(sample: Sample) -> list[tuple[int, bytes]]:
    """Index of the body, and the answer, of every request that was answered with 200."""
    assert sample.record is not None
    good = sample.record.status == OK
    pairs = zip(sample.record.body[good], sample.record.answer[good], strict=True)
    return [(int(body), bytes(answer)) for body, answer in pairs]


def by_users(rows: Sequence[TurnRow], name: str) -> Mapping[int, Sequence[TurnRow]]:
    """The turns of ``name`` by number of users, the first run of a level first."""
    found: dict[int, list[TurnRow]] = {}
    for row in sorted((row for row in rows if row.subject == name and row.users), key=lambda one: one.round):
        assert row.users is not None
        found.setdefault(row.users, []).append(row)
    return found


def reported(levels_of: Mapping[int, Sequence[TurnRow]]) -> TurnRow | None:
    """The last turn of the level whose first was the fastest; None where none had an answer."""
    answered = [rows for rows in levels_of.values() if rows[0].rate_rps]
    fastest = max(answered, key=lambda rows: rows[0].rate_rps or 0.0, default=None)
    return fastest[-1] if fastest else None
