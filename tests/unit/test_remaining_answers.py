"""Slow configurations answer the test photos alone, and for no longer than a few seconds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from litmeter.benchmark.served import LEAST_S, OVERDUE, TESTED_S, LoadSession, remaining_answers
from litmeter.loadgen import LoadPlan
from litmeter.params import load_params
from litmeter.stats.records import FAILED, OK, LoadRecord
from tests.support.project import ROOT
from tests.support.synthetic_results import level

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
        return LoadRecord(
            users=plan.users,
            rate_rps=None,
            window_edges=np.array([0.0, float(count)]),
            user=np.zeros(count, dtype=np.int64),
            start=start,
            sent=start,
            end=start + 0.5,
            status=np.where(np.isin(bodies, self._failing), FAILED, OK),
            code=np.full(count, 200),
            size=np.full(count, 2),
            body=bodies,
            answer=np.full(count, b"{}"),
        )


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


def test_nothing_is_sent_where_none_is_missing() -> None:
    generator = Generator()
    own, _ = session(generator, answered=TESTED)
    assert remaining_answers(own, level(8, 100.0)) == []
    assert generator.plans == []


def test_nothing_is_sent_to_one_that_would_not_answer_in_time() -> None:
    generator = Generator()
    own, _ = session(generator)
    assert remaining_answers(own, level(8, 0.9 / TESTED_S)) == []
    assert generator.plans == []


def test_failed_requests_are_no_answers() -> None:
    own, _ = session(Generator(failing=[0, 2]), answered=range(10, PHOTOS))
    assert sorted(body for body, _ in remaining_answers(own, level(8, 100.0))) == [4, 6, 8]


def test_the_levels_send_the_missing_test_photos_first() -> None:
    own, _ = session(Generator(), answered=[0, 2])
    bodies = own.plan(8, 1).bodies or ()
    assert set(bodies[: len(TESTED) - 2]) == set(TESTED) - {0, 2}
    assert sorted(bodies) == list(range(PHOTOS))
