"""The schedule of a benchmark: one configuration alone at each number of users, and its null server."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from litmeter.load import LoadPlan
from litmeter.load.settings import LoadSettings
from litmeter.measure.rows import TurnRow
from litmeter.measure.turn import Schedule, Turn, make_ready, measure
from litmeter.say.tables import pluralise
from litmeter.stats.records import OK, WINDOWS

NULL_SERVER = "null server"
"""The subject with the same server and a model that does nothing."""
SECONDS = 15.0
"""Seconds after the servers are ready; the levels of a slow configuration run only once."""
FIRST_ANSWERS_S = 4.0
"""If the users' first answers take longer, the whole turn is measured: see ``figures.rate_of``."""
NULL_S = 1.0
"""Seconds of the null server's three windows: enough for rates of hundreds of requests per second."""


@dataclass(frozen=True)
class Alone:
    """What a configuration did alone.

    Attributes:
        ready_s: seconds from its start to its first status 200.
        answers: number of requests with status 200, by index of the body and by answer.
    """

    ready_s: float | None
    answers: Mapping[tuple[int, bytes], int]


def levels(
    name: str, load: LoadSettings, bodies: int, tested: Sequence[int] = (), *, null_server: bool = True
) -> Schedule[Alone]:
    """Load ``name`` at each number of users, then again in reverse order; last, its null server.

    The level that is fastest in the first runs is reported from its second run, which had no part in the
    choice.

    Args:
        bodies: number of request bodies.
        tested: indices of bodies whose answers are needed; they are sent first. Without any, no answer is
        kept.
        null_server: whether there is a null server.
    """
    ready = yield from make_ready([name, NULL_SERVER] if null_server else [name])
    answers: Counter[tuple[int, bytes]] = Counter()  # answers may be large, and most are alike
    plan = replace(_plan(load), keep_answers=bool(tested))
    longest_s = 0.0
    runs = [(number, users) for number, order in enumerate((1, -1)) for users in load.users[::order]]
    for place, (number, users) in enumerate(runs, 1):
        plan = replace(plan, users=users, repeat=number)
        answered = {body for body, _ in answers}
        missing = [body for body in tested if body not in answered]
        others = [body for body in range(bodies) if body not in set(missing)]
        rng = random.Random(plan.random_seed)
        rng.shuffle(missing)  # they are in the order of their classes
        rng.shuffle(others)
        plan = replace(plan, bodies=missing + others)
        sample = yield from measure(Turn(name, plan, number, note=f"{name}: {pluralise(users, 'user')}"))
        record = sample.requests
        if plan.keep_answers:
            good = np.flatnonzero(record.status == OK).tolist()
            answers.update((int(record.body[request]), record.answers[request]) for request in good)
        longest_s = max(longest_s, sample.row.seconds)
        if place >= len(load.users) and sample.ended_s - ready.at_s + longest_s > SECONDS:
            break
    if null_server:
        yield from measure(Turn(NULL_SERVER, null_plan(load)))
    return Alone(ready.ready_s.get(name), answers)


def _plan(load: LoadSettings) -> LoadPlan:
    own = load.model_dump(include={"requests", "warmup_s", "min_s", "max_s", "timeout_s", "seed"})
    return LoadPlan(users=max(load.users), max_windows=WINDOWS, give_up_s=FIRST_ANSWERS_S, **own)


def null_plan(load: LoadSettings) -> LoadPlan:
    """The load of the null server: the most users, for a second."""
    seconds = min(load.min_s, NULL_S)
    return replace(_plan(load), requests=1, min_s=seconds, max_s=seconds, give_up_s=None)


def by_users(rows: Sequence[TurnRow], name: str) -> Mapping[int, Sequence[TurnRow]]:
    """The turns of ``name`` by number of users, the first run of a level first."""
    found: dict[int, list[TurnRow]] = defaultdict(list)
    for row in sorted((row for row in rows if row.subject == name and row.users), key=lambda one: one.round):
        found[row.users or 0].append(row)
    return found


def reported(levels_of: Mapping[int, Sequence[TurnRow]]) -> TurnRow | None:
    """The last turn of the level whose first turn was the fastest; None without an answer."""
    answered = [rows for rows in levels_of.values() if rows[0].rate_rps]
    fastest = max(answered, key=lambda rows: rows[0].rate_rps or 0.0, default=None)
    return fastest[-1] if fastest else None
