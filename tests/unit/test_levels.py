"""The schedule of a benchmark, on a machine that is made up."""

from __future__ import annotations

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
"""Users and run of each turn."""


def plan_of(turn: Turn) -> LoadPlan:
    assert isinstance(turn.load, LoadPlan)
    return turn.load


def rate(turn: Turn) -> float:
    """More for more users; in the second runs 8 users are the slowest."""
    users = plan_of(turn).users
    return 10.0 if (turn.round, users) == (1, 8) else 20.0 + users


def benchmarked(machine: Machine) -> tuple[Alone, Log, list[tuple[int, int]]]:
    """What a benchmark finds, its log, and its runs; the last turn is the null server's."""
    found = drive(levels("e1", LOAD, PHOTOS, TESTED), machine, log := Log())
    *own, null = machine.turns
    assert ({turn.subject for turn in own}, null.subject) == ({"e1"}, NULL_SERVER)
    return found, log, [(plan_of(turn).users, turn.round) for turn in own]


def test_levels_run_twice_and_that_which_was_fastest_first_is_reported_from_its_second_run() -> None:
    machine = Machine(rate)
    found, log, runs = benchmarked(machine)
    assert runs == BOTH_RUNS
    assert found.ready_s == READY_S
    assert len({plan_of(turn).random_seed for turn in machine.turns[:-1]}) == len(BOTH_RUNS)
    null = plan_of(machine.turns[-1])
    assert (null.users, null.give_up_s) == (8, None)
    of_users = by_users(log.rows, "e1")
    assert {users: [row.round for row in rows] for users, rows in of_users.items()} == {
        users: [0, 1] for users in USERS
    }
    best = reported(of_users)
    assert best is not None
    assert (best.users, best.round) == (8, 1)
    assert best.rate_rps == pytest.approx(10.0, rel=0.1)


def test_a_failed_request_is_no_answer_and_without_one_no_level_is_reported() -> None:
    found, log, _ = benchmarked(Machine(lambda turn: 0.0))
    assert not found.answers
    assert reported(by_users(log.rows, "e1")) is None


@pytest.mark.parametrize(("turn_s", "second_runs"), [(2.0, 3), (3.1, 1), (4.0, 0), (30.0, 0)])
def test_a_slow_configuration_has_fewer_second_runs(turn_s: float, second_runs: int) -> None:
    """And every level a first one, however long it takes."""
    machine = Machine(rate, turn_s=lambda turn: turn_s)
    assert benchmarked(machine)[2] == BOTH_RUNS[: 3 + second_runs]
    assert machine.now_s <= max(SECONDS, 3 * turn_s) + READY_S + turn_s


def test_photos_whose_answers_are_needed_are_sent_first_until_they_have_one() -> None:
    machine = Machine(lambda turn: 9.0)  # as many answers in a turn
    found, _, _ = benchmarked(machine)
    answered: dict[int, None] = {}
    for turn in machine.turns[:-1]:
        order = plan_of(turn).bodies
        assert order is not None
        assert sorted(order) == list(range(PHOTOS))
        missing = set(TESTED) - answered.keys()
        assert set(order[: len(missing)]) == missing
        answered |= dict.fromkeys(order[:9])
    assert set(TESTED) <= answered.keys()
    assert list(found.answers) == [(body, b"%d" % body) for body in answered]
