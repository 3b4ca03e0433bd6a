"""The capacity of real servers of known service times."""

from __future__ import annotations

import pytest

from servebench.benchmark.capacity_rows import sentence
from servebench.selftest.stub import running_stub
from tests.support.capacity import capacity_of


def test_a_known_server_has_its_known_capacity() -> None:
    """Two slots of 5 ms: at 313 requests/s 5% of them take more than 20 ms, by a long simulation.

    A machine that is busy with others for a while voids probes; it gets three chances.
    """
    with running_stub(0.005, 2) as stub:
        for _ in range(3):
            result = capacity_of(stub, slo_ms=20.0, max_s=300.0)
            found = result.metrics
            if "void" not in (found.reason or ""):
                break
    assert found.status == "resolved", found
    assert found.capacity_rps == pytest.approx(313.0, rel=0.2)
    assert found.low_rps < found.capacity_rps < found.high_rps < found.peak_rps * 1.1
    assert found.peak_rps == pytest.approx(400.0, rel=0.1)
    assert found.probes + found.void == len(result.rows)
    assert any(row.phase == "confirm" for row in result.rows) == (found.confirmed is not None)
    assert result.curve is not None
    assert "with 95% of them within 20 ms" in sentence(found)


def test_an_objective_that_every_rate_keeps_is_above_the_range() -> None:
    with running_stub(0.002, 1) as stub:
        found = capacity_of(stub, slo_ms=5000.0, probe_requests=150).metrics
    assert found.status == "above_range", found
    assert found.capacity_rps is None
    assert found.low_rps is not None
    assert found.peak_rps is not None
    assert found.low_rps > 0.9 * found.peak_rps
