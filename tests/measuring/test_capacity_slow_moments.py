"""Searches on a machine whose slow moments are watched."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from servebench.benchmark.capacity import CONFIRMATIONS, CapacityMeter
from servebench.benchmark.slow_moments import STOPPED, CoreSpeeds, Floats
from servebench.loadgen import load_generator
from servebench.selftest.stub import running_stub
from servebench.stats.capacity import CapacitySearch
from tests.support.capacity import OBJECTIVE, capacity_of


def test_the_machines_slowest_moment_stands_beside_each_probe() -> None:
    with running_stub(0.005, 2) as stub, CoreSpeeds() as cores:
        result = capacity_of(stub, cores=cores, slo_ms=20.0, max_s=15.0)
    slowest = [row.slowest_moment for row in result.rows]
    assert slowest
    assert all(one is not None and one < STOPPED for one in slowest), slowest


@dataclass
class SlowEverySecondTime(CoreSpeeds):
    """Cores that are slow for a moment in every second probe, from the first one on."""

    probes: int = 0

    def slowness(self, begin: float, end: float) -> Floats:
        self.probes += 1
        return np.array([1.0, 1.3 if self.probes % 2 else 1.1])


def test_unsteady_probes_are_counted_apart() -> None:
    with running_stub(0.005, 2) as stub:
        result = capacity_of(stub, cores=SlowEverySecondTime(), slo_ms=20.0, max_s=35.0)
    assert [row.slowest_moment for row in result.rows[:3]] == [1.3, 1.1, 1.3]
    counted = [row.slowest_moment for row in result.rows if not row.void_reason]
    assert result.metrics.unsteady == counted.count(1.3)
    assert result.metrics.probes == len(counted)  # the others are void: this machine was busy


@dataclass
class SlowAtConfirmations(CoreSpeeds):
    """Cores that are slow for a moment when the search has resolved its capacity, in so many probes."""

    times: int = 0
    search: CapacitySearch | None = None

    def slowness(self, begin: float, end: float) -> Floats:
        search = self.search
        assert search is not None
        slow = search.resolved and sum(not probe.steady for probe in search.probes) < self.times
        return np.array([1.0, 1.3 if slow else 1.0])


@pytest.mark.parametrize("unsteady", [1, CONFIRMATIONS])
def test_a_confirmation_on_unsteady_cores_is_repeated_but_not_for_ever(unsteady: int) -> None:
    cores = SlowAtConfirmations(times=unsteady)
    objective = OBJECTIVE.model_copy(update={"slo_ms": 20.0, "max_s": 300.0})
    with running_stub(0.005, 2) as stub, load_generator([b"{}"], "application/json") as generator:
        meter = CapacityMeter(generator, stub.url, objective, 10.0, cores=cores)
        cores.search = meter.search
        found = meter.measure()
    assert found.status == "resolved", found
    last = meter.log.rows[-1]
    assert last.phase == "confirm"
    assert found.unsteady == unsteady
    steady = unsteady < CONFIRMATIONS
    assert found.confirmed == ((last.missed <= objective.miss) if steady else None)
