"""Searches for the capacity of a stub, and one that was never made."""

from __future__ import annotations

from litmeter.load import load_generator
from litmeter.load.stub import RunningStub
from litmeter.measure.capacity import CapacityMetrics, CapacityResult, CoreSpeeds, measure_capacity
from litmeter.params import ObjectiveSettings

OBJECTIVE = ObjectiveSettings(
    slo_ms=100.0,
    miss=0.05,
    configurations=("any",),
    tolerance=0.15,
    probe_requests=300,
    max_s=60.0,
    seed=1,
)

CAPACITY = CapacityMetrics(
    status="resolved",
    reason="",
    slo_ms=100.0,
    miss=0.05,
    capacity_rps=300.0,
    low_rps=290.0,
    high_rps=310.0,
    share=0.9,
    share_low=0.88,
    share_high=0.92,
    peak_rps=333.0,
    users=16,
    confirmed=True,
    probes=8,
    unsteady=0,
    void=0,
    requests=9000,
    seconds=100.0,
    p50_ms=20.0,
    p95_ms=80.0,
    p99_ms=110.0,
    p999_ms=None,
)


def capacity_of(stub: RunningStub, cores: CoreSpeeds | None = None, **changes: float) -> CapacityResult:
    objective = OBJECTIVE.model_copy(update=changes)
    with load_generator([b"{}"], "application/json") as generator:
        return measure_capacity(generator, stub.url, objective, 10.0, "stub", cores=cores)
