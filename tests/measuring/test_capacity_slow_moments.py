"""A search on a machine whose slow moments are watched."""

from __future__ import annotations

from servebench.benchmark.slow_moments import STOPPED, CoreSpeeds
from servebench.selftest.stub import running_stub
from tests.support.capacity import capacity_of


def test_the_machines_slowest_moment_stands_beside_each_probe() -> None:
    with running_stub(0.005, 2) as stub, CoreSpeeds() as cores:
        result = capacity_of(stub, cores=cores, slo_ms=20.0, max_s=20.0)
    slowest = [row.slowest_moment for row in result.rows]
    assert slowest
    assert all(one is not None and one < STOPPED for one in slowest), slowest
