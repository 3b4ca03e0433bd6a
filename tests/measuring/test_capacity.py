"""The capacity of a real server of known service times."""

from __future__ import annotations

import pytest

from litmeter.load.stub import running_stub
from tests.support.capacity import capacity_of


def test_a_known_server_has_its_known_capacity() -> None:
    """Two slots of 20 ms: at 78.25 requests/s 5% of them take more than 80 ms, by a long simulation.

    Simulated searches of 60 s find 92 to 110% of it.
    """
    with running_stub(0.02, 2) as stub:
        result = capacity_of(stub, slo_ms=80.0, max_s=60.0)
    found = result.metrics
    assert found.status in ("resolved", "unresolved"), found
    assert found.capacity_rps == pytest.approx(78.25, rel=0.2)
    assert found.low_rps is not None
    assert found.high_rps is not None
    assert found.low_rps < found.capacity_rps < found.high_rps
    assert found.peak_rps == pytest.approx(100.0, rel=0.1)
    assert found.seconds < 65
    assert result.curve is not None
