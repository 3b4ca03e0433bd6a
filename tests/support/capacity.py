"""Searches for the capacity of a stub."""

from __future__ import annotations

from servebench.benchmark.capacity import measure_capacity
from servebench.benchmark.capacity_rows import CapacityResult
from servebench.loadgen import load_generator
from servebench.params import ObjectiveSettings
from servebench.selftest.stub import RunningStub

OBJECTIVE = ObjectiveSettings(
    slo_ms=100.0,
    miss=0.05,
    configurations=("any",),
    tolerance=0.15,
    probe_requests=300,
    max_s=60.0,
    seed=1,
)


def capacity_of(stub: RunningStub, **changes: float) -> CapacityResult:
    objective = OBJECTIVE.model_copy(update=changes)
    with load_generator([b"{}"], "application/json") as generator:
        return measure_capacity(generator, stub.url, objective, 10.0, "stub")
