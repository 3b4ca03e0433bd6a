"""Searches for the capacity of a stub, and one that was never made."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

from litmeter.load import load_generator
from litmeter.load.stub import RunningStub
from litmeter.measure.capacity import CapacityMetrics, CapacityResult, capacity
from litmeter.measure.log import Log
from litmeter.measure.rows import TurnRow
from litmeter.measure.run import run
from litmeter.measure.subjects import Target
from litmeter.params import ObjectiveSettings, params_on
from litmeter.paths import MACHINE, CapacityPaths
from litmeter.report.machines import Offer
from litmeter.system.files import digest, read_json, write_json, write_rows
from litmeter.system.machine import recorded_machine
from tests.support.synthetic_results import MACHINE as SYNTHETIC

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


UNREACHABLE = replace(CAPACITY, status="slo_unreachable", capacity_rps=None, low_rps=None, high_rps=None)


def probe(rate_rps: float, missed: float, number: int = 3, **changes: Any) -> TurnRow:
    """A probe whose latencies grow with its rate."""
    figures: dict[str, Any] = {"p50_ms": rate_rps / 10, "p95_ms": rate_rps / 3, "p99_ms": rate_rps / 2}
    figures |= {"users": 256, "offered_rps": rate_rps, "missed": missed, "sent": 1000, "answers": 1000}
    return TurnRow(number, 5.0 * number, 4.9, number, "candidate", "served", **(figures | changes))


OFFERS = [
    Offer(label, "candidate", SYNTHETIC | {"id": label}, metrics, "2026-11-30 07:22 UTC", price)
    for label, metrics, price in (
        ("m1", CAPACITY, 0.17),
        ("m2", CAPACITY, 0.09),
        ("m3", UNREACHABLE, 0.05),
    )
]
"""Of three machines, of which the last takes no requests."""
PROBES = [probe(250.0 + 10 * number, 0.004 * number, number) for number in range(12)]


def write_capacity(name: str, metrics: CapacityMetrics = CAPACITY, **changes: Any) -> None:
    """Write what `make capacity` does, for the machine and the settings of the current folder."""
    settings = params_on(read_json(MACHINE))[0].configuration(name).model_dump_json()
    provenance = recorded_machine() | {"weights_sha256": "abc", "settings": digest(settings.encode())}
    provenance |= {"measured_at": "2026-11-30 07:22 UTC"}
    write_json(CapacityPaths(name).metrics, asdict(metrics) | provenance | changes)
    write_rows(CapacityPaths(name).probes, TurnRow, PROBES)


def capacity_of(stub: RunningStub, **changes: float) -> CapacityResult:
    objective = OBJECTIVE.model_copy(update=changes)
    with load_generator([b"{}"], "application/json") as sender:
        subjects = {"stub": Target(stub.url, sender)}
        return run(capacity(["stub"], objective, 10.0), subjects, Log(), objective.max_s)["stub"]
