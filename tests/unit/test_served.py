"""Which level is the best, the run that it is reported from, and test photos that no level has answered."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from litmeter.load import LoadPlan
from litmeter.measure.levels import fastest_level, level_row, measured_again
from litmeter.measure.rows import LevelRow
from litmeter.measure.served import (
    LEAST_S,
    OVERDUE,
    TESTED_S,
    LevelResult,
    LoadSession,
    ServedResult,
    remaining_answers,
    run_again,
    run_once,
)
from litmeter.params import load_params
from litmeter.stats.records import FAILED, OK, LoadRecord
from tests.support.load import record
from tests.support.project import ROOT
from tests.support.synthetic_results import level
from tests.unit.test_levels import IDLE, steady_record


def row_of(users: int, rps: float, low: float, *, invalid_reason: str = "", failed: int = 0) -> LevelRow:
    row = level_row(steady_record(), IDLE)
    return replace(
        row, users=users, throughput_rps=rps, low_rps=low, invalid_reason=invalid_reason, failed=failed
    )


def test_a_level_that_differs_when_measured_again_warns() -> None:
    first, again = row_of(4, 51.0, 50.0), row_of(4, 35.3, 34.0)
    row = measured_again(first, again)
    assert (row.throughput_rps, row.first_rps, row.valid) == (35.3, 51.0, True)
    assert row.warnings == "it did 51.0 req/s before"
    assert measured_again(row_of(4, 37.0, 36.0), again).warnings == ""


def test_the_interval_contains_the_first_rate() -> None:
    again = replace(row_of(4, 35.3, 34.0), high_rps=36.0)
    higher = measured_again(row_of(4, 51.0, 50.0), again)
    assert (higher.low_rps, higher.high_rps) == (34.0, 51.0)
    lower = measured_again(row_of(4, 30.0, 29.0), again)
    assert (lower.low_rps, lower.high_rps) == (30.0, 36.0)


RUN_S = 4.0
"""Of every run that is made up."""


class Session:
    """Answers with the rates of later runs that were made up, by users; one is repeated."""

    name = "e1"

    def __init__(self, later: dict[int, list[LevelRow]], time_s: float = math.inf) -> None:
        self.later = later
        self.left_s = time_s
        self.ran: list[tuple[int, int]] = []

    def has_time(self, seconds: float) -> bool:
        return seconds <= self.left_s

    def run(self, users: int, run: int) -> LevelResult:
        self.ran.append((users, run))
        self.left_s -= RUN_S
        return result_of(self.later[users].pop(0) if len(self.later[users]) > 1 else self.later[users][0])


def result_of(row: LevelRow) -> LevelResult:
    return LevelResult(row, None, steady_record(), RUN_S)


def later_runs(
    first: dict[int, float], later: dict[int, list[LevelRow]], time_s: float = math.inf
) -> tuple[list[tuple[int, int]], LevelRow | None, int]:
    """What ran again, the best row, and how often the in-process rates were measured."""
    results, pauses = {users: result_of(row_of(users, rps, rps - 1)) for users, rps in first.items()}, []
    session = Session(later, time_s)
    levels, best = run_again(session, results, lambda: pauses.append(1))  # type: ignore[arg-type]
    assert set(levels) == {users for users, _ in session.ran}
    return session.ran, best, len(pauses)


@pytest.mark.parametrize(("time_s", "pauses"), [(math.inf, 2), (RUN_S, 1), (0.0, 1)])
def test_the_workers_are_measured_between_levels_at_least_once(time_s: float, pauses: int) -> None:
    called: list[int] = []
    session = Session({1: [row_of(1, 22, 21)], 8: [row_of(8, 31, 30)]}, time_s)
    levels = run_once(session, (1, 8), lambda: called.append(1))  # type: ignore[arg-type]
    assert list(levels) == [1, 8]
    assert session.ran == [(1, 0), (8, 0)]
    assert len(called) == pauses


def test_levels_near_the_fastest_run_twice_and_the_best_is_reported_from_a_third_run() -> None:
    """The machine is fast at first: the first runs alone would choose 1 user, which is the slower level."""
    later = {1: [row_of(1, 22, 21), row_of(1, 22, 21)], 8: [row_of(8, 31, 30), row_of(8, 26, 25)]}
    ran, best, pauses = later_runs({1: 28, 8: 27}, later)
    assert ran == [(8, 1), (1, 1), (8, 2)]
    assert best is not None
    assert (best.users, best.throughput_rps, best.first_rps) == (8, 26, 29)
    assert pauses == 2


@pytest.mark.parametrize(("runs", "ran"), [(3, [(8, 1), (1, 1), (8, 2)]), (2, [(1, 1)]), (0, [(1, 1)])])
def test_where_the_time_is_used_up_the_first_runs_choose(
    runs: int, ran: list[tuple[int, int]], capsys: pytest.CaptureFixture[str]
) -> None:
    """And a later run reports, however late it is."""
    later = {1: [row_of(1, 22, 21)], 8: [row_of(8, 31, 30), row_of(8, 26, 25)]}
    found, best, _ = later_runs({1: 28, 8: 27}, later, runs * RUN_S)
    assert found == ran
    assert best is not None
    assert best.users == ran[-1][0]
    assert ("e1: no time left" in capsys.readouterr().out) is (runs < 3)


@pytest.mark.parametrize(
    ("left_s", "first_s", "later_s"), [(20.0, 8.0, 8.0), (13.0, 5.0, 8.0), (6.0, 3.0, 6.0), (-9.0, 3.0, 3.0)]
)
def test_where_the_time_is_used_up_a_level_that_collapses_is_given_up_sooner(
    left_s: float, first_s: float, later_s: float
) -> None:
    nothing: Any = None
    load = load_params(ROOT / "params.yaml").load
    until = time.monotonic() + left_s
    session = LoadSession("e3", nothing, nothing, nothing, load, 1000.0, 4, (), until)
    assert session.plan(8, 0).give_up_s == pytest.approx(first_s, abs=1.0)
    assert session.plan(8, 1).give_up_s == pytest.approx(later_s, abs=1.0)
    assert session.has_time(left_s - 2.0)
    assert not session.has_time(left_s + 1.0)


@pytest.mark.parametrize(("runs", "ran"), [(0, [(8, 1)]), (1, [(8, 1)]), (2, [(8, 1), (8, 2)])])
def test_where_the_time_is_used_up_a_run_that_is_not_valid_is_the_last(
    runs: int, ran: list[tuple[int, int]]
) -> None:
    later = {8: [row_of(8, 81, 80, invalid_reason="unstable")]}
    found, best, _ = later_runs({1: 20, 8: 80}, later, runs * RUN_S)
    assert found == ran
    assert best is not None
    assert (best.users, best.valid) == (8, False)


def test_a_level_far_above_the_others_runs_once_more() -> None:
    ran, best, pauses = later_runs({1: 50, 8: 90}, {8: [row_of(8, 70, 69)]})
    assert ran == [(8, 1)]
    assert best is not None
    assert (best.users, best.throughput_rps, best.first_rps) == (8, 70, 90)
    assert pauses == 1


def test_a_level_that_is_not_valid_gives_way_to_the_next() -> None:
    later = {8: [row_of(8, 81, 80)], 32: [row_of(32, 90, 88, invalid_reason="unstable")]}
    ran, best, _ = later_runs({1: 20, 8: 80, 32: 90}, later)
    assert ran == [(32, 1), (8, 1), (32, 2), (32, 3), (8, 2)]
    assert best is not None
    assert best.users == 8


def test_a_level_far_below_the_fastest_is_not_run_again() -> None:
    ran, best, _ = later_runs({1: 40, 8: 90}, {8: [row_of(8, 90, 80, invalid_reason="unstable")]})
    assert ran == [(8, 1), (8, 2)]
    assert best is not None
    assert best.users == 8


def test_where_requests_fail_as_the_fastest_runs_again_the_next_one_is_reported() -> None:
    """However far below it is, and however late."""
    failing = row_of(8, 88, 86, invalid_reason="1 failed", failed=1)
    later = {1: [row_of(1, 41, 40)], 4: [failing], 8: [failing]}
    ran, best, _ = later_runs({1: 40, 4: 60, 8: 90}, later, 0.0)
    assert ran == [(8, 1), (4, 1), (1, 1)]
    assert best is not None
    assert (best.users, best.throughput_rps) == (1, 41)


def test_where_requests_fail_at_all_levels_none_is_best() -> None:
    failing = result_of(row_of(8, 90, 80, invalid_reason="1 failed", failed=1))
    assert run_again(Session({}), {8: failing}, lambda: None) == ({}, None)  # type: ignore[arg-type]


def test_within_the_interval_fewer_users_are_best() -> None:
    rows = [row_of(1, 20, 19), row_of(8, 60, 58), row_of(32, 61, 59.5)]
    assert fastest_level(rows) == rows[1]


def test_failed_requests_of_a_run_that_was_run_again_count() -> None:
    """The level's row is that of its last run."""
    phases = [("run 2", "failed"), ("run 2", "timed out"), ("run 3", "ok")]
    samples = [{"phase": phase, "status": status} for phase, status in phases]
    result = ServedResult([result_of(row_of(8, 80, 79))], None, samples, [], 1.0, 1.0, None)
    assert result.failed == 2


PHOTOS = 100
TESTED = range(0, PHOTOS, 2)


class Generator:
    """Answers what it is told to send, except for ``failing``; keeps the plans."""

    def __init__(self, failing: Sequence[int] = ()) -> None:
        self.plans: list[LoadPlan] = []
        self.urls: list[str] = []
        self._failing = failing

    def run(self, url: str, plan: LoadPlan, on_progress: Callable[..., Any]) -> LoadRecord:
        on_progress(plan.users, 0, 0.0)
        self.plans.append(plan)
        self.urls.append(url)
        bodies = np.array(plan.bodies)
        count = len(bodies)
        start = np.arange(count, dtype=float)
        good = record(start, start + 0.5, users=plan.users, edges=(0.0, float(count)))
        return replace(good, status=np.where(np.isin(bodies, self._failing), FAILED, OK), body=bodies)


def session(generator: Generator, answered: Sequence[int] = ()) -> tuple[LoadSession, list[None]]:
    """A session in which the levels have answered ``answered``, and a list of the server's checks."""
    checks: list[None] = []
    server: Any = SimpleNamespace(url="http://server", check=lambda: checks.append(None))
    fake: Any = generator
    telemetry: Any = None
    load = load_params(ROOT / "params.yaml").load
    own = LoadSession("e1", server, fake, telemetry, load, 1000.0, PHOTOS, TESTED)
    own.answers += [(body, b"{}") for body in answered]
    return own, checks


@pytest.mark.parametrize("rate_rps", [0.8, 2.04])
def test_a_slow_configuration_answers_as_many_test_photos_as_it_can_in_time(rate_rps: float) -> None:
    generator = Generator()
    own, checks = session(generator, answered=[1, 3, 4])
    found = remaining_answers(own, level(8, rate_rps))
    [plan] = generator.plans
    assert len(found) == plan.requests == len(plan.bodies or ()) == int(rate_rps * TESTED_S)
    sent = {body for body, _ in found}
    assert len(sent) == len(found)
    assert sent <= set(TESTED) - {4}
    assert plan.users == 8
    assert plan.warmup_s == plan.min_s == 0
    assert generator.urls == ["http://server/predict"]
    assert checks


def test_one_that_has_no_time_left_answers_some_test_photos() -> None:
    generator = Generator()
    own, _ = session(generator)
    own.until = 0.0
    assert len(remaining_answers(own, level(8, 4.0))) == int(4.0 * LEAST_S)
    [plan] = generator.plans
    assert plan.timeout_s == OVERDUE * LEAST_S


def test_a_fast_one_answers_all_that_are_missing_and_no_others() -> None:
    generator = Generator()
    own, _ = session(generator, answered=[*range(20), 21, 23])
    found = remaining_answers(own, level(8, 100.0))
    assert sorted(body for body, _ in found) == list(range(20, PHOTOS, 2))


@pytest.mark.parametrize(("answered", "rate_rps"), [(TESTED, 100.0), ((), 0.9 / TESTED_S)])
def test_nothing_is_sent_where_none_is_missing_or_would_be_answered_in_time(
    answered: Sequence[int], rate_rps: float
) -> None:
    generator = Generator()
    own, _ = session(generator, answered)
    assert remaining_answers(own, level(8, rate_rps)) == []
    assert generator.plans == []


def test_failed_requests_are_no_answers() -> None:
    own, _ = session(Generator(failing=[0, 2]), answered=range(10, PHOTOS))
    assert sorted(body for body, _ in remaining_answers(own, level(8, 100.0))) == [4, 6, 8]


def test_the_levels_send_the_missing_test_photos_first() -> None:
    own, _ = session(Generator(), answered=[0, 2])
    bodies = own.plan(8, 1).bodies or ()
    assert set(bodies[: len(TESTED) - 2]) == set(TESTED) - {0, 2}
    assert sorted(bodies) == list(range(PHOTOS))
