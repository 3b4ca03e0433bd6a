"""A server that keeps the objective at every rate."""

from __future__ import annotations

from litmeter.loadgen.stub import running_stub
from tests.support.capacity import capacity_of


def test_an_objective_that_every_rate_keeps_is_above_the_range() -> None:
    with running_stub(0.002, 1) as stub:
        found = capacity_of(stub, slo_ms=5000.0, probe_requests=150).metrics
    assert found.status == "above_range", found
    assert found.capacity_rps is None
    assert found.low_rps is not None
    assert found.peak_rps is not None
    assert found.low_rps > 0.9 * found.peak_rps
