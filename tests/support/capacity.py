"""Searches for the capacity of a stub, and one that was never made."""

from __future__ import annotations

from litmeter.load import load_generator
from litmeter.load.stub import RunningStub
from litmeter.measure.capacity import CapacityMetrics, CapacityResult, capacity
from litmeter.measure.log import Log
from litmeter.measure.run import run
from litmeter.measure.subjects import Url
from litmeter.params import ObjectiveSettings

OBJECTIVE = ObjectiveSettings(
    slo_ms=100.0, miss=0.05, configurations=("any",), tolerance=0.1, max_s=120.0, seed=1
)

CAPACITY = CapacityMetrics(
    status="resolved",
    reason="",
    slo_ms=100.0,
    miss=0.05,
    capacity_rps=300.0,
    low_rps=290.0,
    high_rps=310.0,
    peak_rps=333.0,
    probes=48,
    seconds=240.0,
)


def capacity_of(stub: RunningStub, **changes: float) -> CapacityResult:
    objective = OBJECTIVE.model_copy(update=changes)
    with load_generator([b"{}"], "application/json") as sender:
        subjects = {"stub": Url(stub.url, sender)}
        return run(capacity(["stub"], objective, 10.0), subjects, Log(), objective.max_s)["stub"]
