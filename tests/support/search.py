"""What a search has found."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from litmeter.report.snapshot import Tuned
from litmeter.tune.rows import TuneMetrics, TuneRow

WINNER = TuneRow(
    name="int8 direct 2x1 b4",
    status="winner",
    incumbent=False,
    rate_rps=310.0,
    ratio=1.0,
    ratio_low=1.0,
    ratio_high=1.0,
    over_serve=2.0,
    over_serve_low=1.9,
    over_serve_high=2.1,
    p95_ms=30.0,
    memory_mib=600.0,
    agreement=1.0,
    failed=0,
    rounds=30,
    eliminated_after_rounds=None,
    capacity_rps=None,
    capacity_low_rps=None,
    capacity_high_rps=None,
    reason="",
    knobs={
        "precision": "int8",
        "compiled": "True",
        "preprocess": "torchvision",
        "transport": "direct",
        "workers_per_device": "2",
        "threads_per_worker": "1",
        "max_batch_size": "4",
        "batch_timeout_s": "0.0",
        "keep_freed_memory": "False",
    },
)


METRICS = TuneMetrics(
    goal="throughput",
    users=8,
    winner={"precision": "int8", "max_batch_size": 4},
    rate_rps=310.0,
    over_serve=2.0,
    over_serve_low=1.9,
    over_serve_high=2.1,
    p95_ms=30.0,
    memory_mib=600.0,
    agreement=1.0,
    capacity=None,
    equal=0,
    not_resolved=0,
    combinations=40,
    raced=17,
    rounds=9,
    settled=True,
    seconds=300,
    machine="here",
    environment="now",
    measured_at="2026-12-01 12:00 UTC",
    weights_sha256="abc",
    left_out={},
)


def tuned(
    goal: Literal["throughput", "capacity"] = "throughput", users: int = METRICS.users, **changes: Any
) -> Tuned:
    """A search whose winner differs by ``changes`` from WINNER."""
    return Tuned(METRICS.model_copy(update={"goal": goal, "users": users}), [replace(WINNER, **changes)], [])
