"""What a search has found."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from litmeter.report.snapshot import Tuned
from litmeter.tune.rows import TuneRow

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


def tuned(goal: str = "throughput", **changes: Any) -> Tuned:
    """A search whose winner differs by ``changes`` from WINNER."""
    found: dict[str, Any] = {"goal": goal, "users": 8, "winner": {"precision": "int8", "max_batch_size": 4}}
    return Tuned(found, [replace(WINNER, **changes)], [])
