"""A search on a machine whose slow moments are watched."""

from __future__ import annotations

import numpy as np

from litmeter.benchmark.slow_moments import STOPPED, CoreSpeeds, Floats
from litmeter.loadgen.stub import running_stub
from tests.support.capacity import capacity_of


def test_the_machines_slowest_moment_stands_beside_each_probe() -> None:
    with running_stub(0.005, 2) as stub, CoreSpeeds() as cores:
        result = capacity_of(stub, cores=cores, slo_ms=20.0, max_s=20.0)
    slowest = [row.slowest_moment for row in result.rows]
    assert slowest
    assert all(one is not None and one < STOPPED for one in slowest), slowest


class SlowCores(CoreSpeeds):
    """Cores that are slow for a moment in every probe."""

    def slowness(self, begin: float, end: float) -> Floats:
        return np.array([1.0, 1.3])


def test_a_machine_that_is_always_unsteady_is_the_reason_why_nothing_is_resolved() -> None:
    with running_stub(0.01, 2) as stub:
        while not (found := capacity_of(stub, cores=SlowCores(), max_s=20.0, slo_ms=50.0).metrics).probes:
            assert found.void > 0  # the client was kept from sending in time
    assert found.status == "unresolved", found
    assert found.probes == found.unsteady > 0
    assert f"in {found.unsteady} of {found.probes} probes the machine was slow for a moment" in found.reason
