"""Searches on a machine whose slow moments are watched."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from servebench.benchmark.capacity import CapacityMeter
from servebench.benchmark.probe_validity import is_steady
from servebench.benchmark.slow_moments import CoreSpeeds, Floats
from servebench.loadgen import load_generator
from servebench.selftest.stub import running_stub
from servebench.stats.capacity import CapacitySearch
from tests.support.capacity import OBJECTIVE, capacity_of


def test_the_machines_slowest_moment_stands_beside_each_probe() -> None:
    with running_stub(0.005, 2) as stub, CoreSpeeds() as cores:
        result = capacity_of(stub, cores=cores, slo_ms=20.0, max_s=15.0)
    slowest = [row.slowest_moment for row in result.rows]
    assert all(one is not None and 1.0 <= one < 10.0 for one in slowest), slowest
    counted = [row for row in result.rows if not row.void_reason]
    assert result.metrics.unsteady == sum(not is_steady(row.slowest_moment) for row in counted)
    assert result.metrics.void == len(result.rows) - len(counted)


@dataclass
class SlowAtFirstConfirmation(CoreSpeeds):
    """Cores that are slow for a moment when the search has resolved its capacity for the first time."""

    search: CapacitySearch | None = None
    slow: list[bool] = field(default_factory=list)

    def slowness(self, begin: float, end: float) -> Floats:
        confirming = self.search is not None and self.search.resolved
        self.slow.append(confirming and not any(self.slow))
        return np.array([1.0, 1.3 if self.slow[-1] else 1.0])


def test_a_confirmation_on_unsteady_cores_is_repeated() -> None:
    cores = SlowAtFirstConfirmation()
    objective = OBJECTIVE.model_copy(update={"slo_ms": 20.0, "max_s": 300.0})
    with running_stub(0.005, 2) as stub, load_generator([b"{}"], "application/json") as generator:
        meter = CapacityMeter(generator, stub.url, objective, 10.0, cores=cores)
        cores.search = meter.search
        found = meter.measure()
    assert found.status == "resolved", found
    first = cores.slow.index(True)
    assert meter.log.rows[first].phase == "confirm"
    confirmations = [row for row in meter.log.rows[first + 1 :] if row.phase == "confirm"]
    assert confirmations
    assert found.confirmed == (confirmations[-1].missed <= objective.miss)
