"""The load on a stub server, closed or open."""

from __future__ import annotations

from litmeter.loadgen import LoadPlan, generate
from litmeter.loadgen.generator import OnEdge
from litmeter.selftest.stub import BODY
from litmeter.stats.records import WINDOWS, LoadRecord

WARMUP_S = 0.3
TIMEOUT_S = 10.0


def load_stub(
    url: str,
    users: int,
    seconds: float,
    rate_rps: float | None = None,
    on_edge: OnEdge = lambda users, index: None,
) -> LoadRecord:
    """Run three windows, ``seconds`` together, of a closed loop of ``users`` or of Poisson arrivals."""
    plan = LoadPlan(
        users=users,
        requests=1,
        warmup_s=WARMUP_S,
        min_s=seconds,
        max_s=seconds,
        max_windows=WINDOWS,
        timeout_s=TIMEOUT_S,
        seed=0,
        rate_rps=rate_rps,
    )
    [record] = generate(url, [BODY], "application/json", [plan], on_edge=on_edge)
    return record
