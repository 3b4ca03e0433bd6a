"""Slow moments of the cores are found, whatever requests did."""

from __future__ import annotations

import itertools
import os
from time import perf_counter, sleep

import numpy as np
import pytest

from litmeter.benchmark.probe_validity import Conditions, void_reason
from litmeter.benchmark.slow_moments import MOMENT_S, STOPPED, CoreSpeeds
from litmeter.params import ObjectiveSettings
from litmeter.stats.capacity import Probe
from litmeter.stats.records import LoadRecord
from tests.unit.test_lateness import record

OBJECTIVE = ObjectiveSettings(
    slo_ms=50.0, miss=0.05, configurations=("any",), tolerance=0.04, probe_requests=1000, max_s=120.0, seed=0
)


def test_a_moment_in_which_the_same_work_takes_longer_stands_out() -> None:
    speeds = CoreSpeeds()
    at = np.arange(0.0, 5.0, 0.01)
    slow = (at >= 2.0) & (at < 2.5)
    speeds._samples += [
        (float(second), core, (1.0 + core) * (1.4 if late else 1.0))
        for second, core, late in zip(at, itertools.cycle((0, 1)), slow)
    ]

    slowness = speeds.slowness(0.0, 5.0)

    assert len(slowness) == round(5.0 / MOMENT_S)
    assert slowness.argmax() == 4
    assert slowness[4] == pytest.approx(1.4)
    assert np.delete(slowness, 4) == pytest.approx(1.0)


def test_all_cores_are_visited_while_the_block_runs() -> None:
    began = perf_counter()
    with CoreSpeeds() as speeds:
        sleep(2.2 * MOMENT_S)
    ended = perf_counter()

    slowness = speeds.slowness(began, began + 2 * MOMENT_S)
    assert len(slowness) == 2
    assert (slowness < STOPPED).all()
    assert {core for _, core, _ in speeds._samples} == os.sched_getaffinity(0)
    assert (speeds.slowness(ended, ended + 1.0) == STOPPED).all()


def test_a_moment_in_which_nothing_was_done_was_slow_however_many_such_there_are() -> None:
    speeds = CoreSpeeds()
    speeds._samples += [(float(second), 0, 1.0) for second in np.arange(0.0, 1.0, 0.01)]
    assert speeds.slowness(0.0, 4.0).tolist() == [1.0, 1.0] + [STOPPED] * 6


@pytest.mark.parametrize(("slowest", "steady"), [(None, True), (1.05, True), (1.3, False)])
def test_a_slow_moment_makes_a_probe_unsteady_and_not_void(slowest: float | None, steady: bool) -> None:
    own: LoadRecord = record(0.0, users=100)
    opened, closed = own.window
    assert own.rate_rps is not None
    probe = Probe(own.rate_rps, 100.0, (0.0,) * 10, round(own.rate_rps * (closed - opened)))

    under = Conditions(100.0, 100.0, slowest)
    assert under.steady is steady
    assert void_reason(own, probe, OBJECTIVE, under) == ""
