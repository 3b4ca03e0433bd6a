"""The schedule of a benchmark, on a machine that is made up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from litmeter.load import LoadPlan
from litmeter.load.settings import LoadSettings
from litmeter.measure.levels import NULL_SERVER, SECONDS, Alone, by_users, levels, reported
from litmeter.measure.log import Log
from litmeter.measure.turn import Turn
from litmeter.params import load_params
from tests.support.project import ROOT
from tests.support.turns import READY_S, Machine, drive

USERS = (1, 4, 8)
LOAD: LoadSettings = load_params(ROOT / "params.yaml").load.model_copy(update={"users": USERS})
PHOTOS, TESTED = 40, range(0, 40, 2)
BOTH_RUNS = [(1, 0), (4, 0), (8, 0), (8, 1), (4, 1), (1, 1)]


def rate(turn: Turn) -> float:
    """More for more users; in the second runs 8 users are the slowest."""
    users = plan_of(turn).users
    return 10.0 if (turn.round, users) == (1, 8) else 20.0 + users


def silent(turn: Turn) -> float:
    return 0.0


def plan_of(turn: Turn) -> LoadPlan:
    assert isinstance(turn.load, LoadPlan)
    return turn.load


@dataclass
class Benchmark:
    """A configuration that is benchmarked on such a machine."""

    rate_rps: Callable[[Turn], float] = rate
    turn_s: float = 1.0
    log: Log = field(default_factory=Log)

    def __post_init__(self) -> None:
        self.machine = Machine(self.rate_rps, lambda turn: self.turn_s)
        self.found: Alone = drive(levels("e1", LOAD, PHOTOS, TESTED), self.machine, self.log)
        *self.turns, self.last = self.machine.turns
        self.runs = [(plan_of(turn).users, turn.round) for turn in self.turns]


def test_each_level_has_two_runs_in_opposite_orders_and_the_null_server_one() -> None:
    done = Benchmark()
    assert done.runs == BOTH_RUNS
    assert {turn.subject for turn in done.turns} == {"e1"}
    assert (done.last.subject, plan_of(done.last).users, plan_of(done.last).give_up_s) == (
        NULL_SERVER,
        8,
        None,
    )
    assert done.found.ready_s == READY_S
    assert len({plan_of(turn).random_seed for turn in done.turns}) == 2 * len(USERS)


def test_the_level_that_was_fastest_first_is_reported_from_its_second_run() -> None:
    of_users = by_users(Benchmark().log.rows, "e1")
    assert [(users, [row.round for row in rows]) for users, rows in of_users.items()] == [
        (users, [0, 1]) for users in USERS
    ]
    best = reported(of_users)
    assert best is not None
    assert (best.users, best.round) == (8, 1)
    assert best.rate_rps == pytest.approx(10.0, rel=0.1)


def test_a_failed_request_is_no_answer_and_without_one_no_level_is_reported() -> None:
    done = Benchmark(silent)
    assert not done.found.answers
    assert reported(by_users(done.log.rows, "e1")) is None


@pytest.mark.parametrize(("turn_s", "second_runs"), [(2.0, 3), (3.1, 1), (4.0, 0), (30.0, 0)])
def test_a_slow_configuration_has_fewer_second_runs(turn_s: float, second_runs: int) -> None:
    """And every level a first one, however long it takes."""
    done = Benchmark(turn_s=turn_s)
    assert done.runs == BOTH_RUNS[: 3 + second_runs]
    assert done.machine.now_s <= max(SECONDS, 3 * turn_s) + READY_S + turn_s
    assert done.last.subject == NULL_SERVER


def test_photos_whose_answers_are_needed_are_sent_first_until_they_have_one() -> None:
    done = Benchmark(lambda turn: 9.0)  # as many answers in a turn
    answered: dict[int, None] = {}
    for turn in done.turns:
        order = plan_of(turn).bodies
        assert order is not None
        assert sorted(order) == list(range(PHOTOS))
        missing = set(TESTED) - answered.keys()
        assert set(order[: len(missing)]) == missing
        answered |= dict.fromkeys(order[:9])
    assert set(TESTED) <= answered.keys()
    assert list(done.found.answers) == [(body, b"%d" % body) for body in answered]
