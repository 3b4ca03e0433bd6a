"""Searches for the capacity of a simulated queue, slow moments of cores, and requests that were sent late."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter, sleep

import numpy as np
import pytest

from litmeter.load import LoadPlan
from litmeter.load.senders import OnProgress
from litmeter.measure.capacity import (
    CONFIRMATIONS,
    MOMENT_S,
    STOPPED,
    CapacityMeter,
    Conditions,
    CoreSpeeds,
    Floats,
    void_reason,
)
from litmeter.stats.capacity import CapacitySearch, Probe
from litmeter.stats.records import OK, WINDOWS, LoadRecord
from tests.support.capacity import OBJECTIVE
from tests.support.load import record
from tests.support.queues import QUEUES, Queue


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
    meter = CapacityMeter(SimulatedSender(), "http://simulated", OBJECTIVE, 10.0, cores=speeds)
    assert 1.0 <= (meter._slowest_moment(began) or 0.0) < STOPPED
    assert {core for _, core, _ in speeds._samples} == os.sched_getaffinity(0)
    assert (speeds.slowness(ended, ended + 1.0) == STOPPED).all()


def test_a_moment_in_which_nothing_was_done_was_slow_however_many_such_there_are() -> None:
    speeds = CoreSpeeds()
    speeds._samples += [(float(second), 0, 1.0) for second in np.arange(0.0, 1.0, 0.01)]
    assert speeds.slowness(0.0, 4.0).tolist() == [1.0, 1.0] + [STOPPED] * 6


@pytest.mark.parametrize(("slowest", "steady"), [(None, True), (1.05, True), (1.3, False)])
def test_a_slow_moment_makes_a_probe_unsteady_and_not_void(slowest: float | None, steady: bool) -> None:
    due = np.arange(10) * 0.01 + 1.0
    own: LoadRecord = record(due, due + 0.04, users=100, rate_rps=100.0, edges=(0.0, 1.0, 1.05, 2.0))
    opened, closed = own.window
    assert own.rate_rps is not None
    probe = Probe(own.rate_rps, 100.0, (0.0,) * 10, round(own.rate_rps * (closed - opened)))

    under = Conditions(100.0, 100.0, slowest)
    assert under.steady is steady
    assert void_reason(own, probe, OBJECTIVE.model_copy(update={"slo_ms": 50.0}), under) == ""


QUEUE = QUEUES[0]


@dataclass
class SimulatedSender:
    """Loads a queue, on a clock of its own."""

    queue: Queue = QUEUE
    loads: int = 0
    now_s: float = 0.0

    def run(self, url: str, plan: LoadPlan, *, on_progress: OnProgress) -> LoadRecord:
        self.loads += 1
        seconds = plan.warmup_s + plan.min_s
        self.now_s += seconds
        if plan.rate_rps is None:
            rate_rps = min(plan.users, self.queue.slots) / self.queue.service_s
            end = np.arange(1, int(rate_rps * seconds)) / rate_rps
            start = end - plan.users / rate_rps
        else:
            requests = int(plan.rate_rps * seconds * 1.2)
            # The first numbers of the generator that the queue draws its arrivals from.
            start = np.cumsum(np.random.default_rng(self.loads).exponential(1 / plan.rate_rps, requests))
            end = start + self.queue.times(np.random.default_rng(self.loads), plan.rate_rps, requests)
        zeros = np.zeros(len(end), dtype=np.int64)
        return LoadRecord(
            users=plan.users,
            rate_rps=plan.rate_rps,
            window_edges=np.linspace(plan.warmup_s, seconds, WINDOWS + 1),
            user=zeros,
            start=start,
            sent=start,
            end=end,
            status=np.full(len(end), OK),
            code=np.full(len(end), 200),
            size=zeros,
            body=zeros,
            answer=np.full(len(end), b""),
        )


@dataclass
class SlowCores(CoreSpeeds):
    """Cores that are slow for a moment in a probe where ``slow`` says so."""

    slow: Callable[[CapacitySearch], bool] = lambda search: False
    search: CapacitySearch = field(default_factory=lambda: CapacitySearch(0.05, 0.04))

    def slowness(self, begin: float, end: float) -> Floats:
        return np.array([1.0, 1.3 if self.slow(self.search) else 1.1])


Slow = Callable[[CapacitySearch], bool]
NewMeter = Callable[..., CapacityMeter]


@pytest.fixture
def meter_of(monkeypatch: pytest.MonkeyPatch) -> NewMeter:
    """Makes the meter of a search, by when cores are slow and what differs in the objective."""
    return partial(new_meter, monkeypatch)


def new_meter(monkeypatch: pytest.MonkeyPatch, slow: Slow, **objective: float) -> CapacityMeter:
    settings = {"slo_ms": 1000 * QUEUE.objective_s, "tolerance": 0.04, "probe_requests": 1000, "max_s": 900.0}
    cores = SlowCores(slow=slow)
    own = OBJECTIVE.model_copy(update=settings | objective)
    sender = SimulatedSender()
    monkeypatch.setattr("litmeter.measure.capacity.monotonic", lambda: sender.now_s)
    meter = CapacityMeter(sender, "http://simulated", own, 10.0, cores=cores)
    cores.search = meter.search
    return meter


def unsteady(search: CapacitySearch) -> int:
    return sum(not probe.steady for probe in search.probes)


def test_on_steady_cores_the_capacity_is_found_and_confirmed(meter_of: NewMeter) -> None:
    meter = meter_of(lambda search: False)
    found = meter.measure()
    assert found.status == "resolved"
    assert found.capacity_rps == pytest.approx(QUEUE.capacity_rps, rel=0.05)
    assert [row.phase for row in meter.log.rows].count("confirm") == 1
    assert found.confirmed == (meter.log.rows[-1].missed <= OBJECTIVE.miss)
    assert (found.unsteady, found.void) == (0, 0)


def test_unsteady_probes_are_left_out_as_long_as_they_are_no_more_than_half(
    meter_of: NewMeter,
) -> None:
    meter = meter_of(lambda search: len(search.probes) % 2 == 1)
    found = meter.measure()
    assert found.status == "resolved"
    assert found.capacity_rps == pytest.approx(QUEUE.capacity_rps, rel=0.05)
    slowest = [row.slowest_moment for row in meter.log.rows]
    assert slowest[:3] == [1.1, 1.3, 1.1]
    assert found.unsteady == slowest.count(1.3)


@pytest.mark.parametrize("times", [1, CONFIRMATIONS])
def test_a_confirmation_on_unsteady_cores_is_repeated_but_not_for_ever(
    meter_of: Callable[..., CapacityMeter], times: int
) -> None:
    meter = meter_of(lambda search: search.resolved and unsteady(search) < times)
    found = meter.measure()
    assert found.status == "resolved"
    phases = [row.phase for row in meter.log.rows]
    assert phases.count("confirm") >= min(times + 1, CONFIRMATIONS)
    assert phases[-1] == "confirm"
    assert found.unsteady == times
    steady = meter.search.probes[-1].steady
    assert steady == (times < CONFIRMATIONS)
    assert found.confirmed == ((meter.log.rows[-1].missed <= OBJECTIVE.miss) if steady else None)


def test_cores_that_are_always_unsteady_are_the_reason_why_nothing_is_resolved(
    meter_of: NewMeter,
) -> None:
    found = meter_of(lambda search: True, max_s=100.0).measure()
    assert found.status == "unresolved", found
    assert found.probes == found.unsteady > 0
    assert f"in {found.unsteady} of {found.probes} probes" in found.reason


def test_an_objective_that_every_rate_keeps_is_above_the_range(
    meter_of: NewMeter,
) -> None:
    found = meter_of(lambda search: False, slo_ms=1e6).measure()
    assert found.status == "above_range", found
    assert found.capacity_rps is None
    assert found.low_rps is not None
    assert found.peak_rps is not None
    assert found.low_rps > 0.9 * found.peak_rps
