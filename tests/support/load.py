"""Loads for tests, and records of loads."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from litmeter.load import LoadPlan
from litmeter.stats.records import OK, LoadRecord

Times = Sequence[float] | npt.NDArray[np.float64]


def plan(users: int, **changes: float) -> LoadPlan:
    """Of three windows of two seconds together, in which one answer is enough."""
    windows = {"requests": 1, "warmup_s": 0.3, "min_s": 2.0, "max_s": 2.0, "max_windows": 3}
    return LoadPlan(users=users, **{**windows, "timeout_s": 10.0, "seed": 1, **changes})  # type: ignore[arg-type]


def record(
    start: Times,
    end: Times,
    *,
    sent: Times | None = None,
    users: int = 1,
    rate_rps: float | None = None,
    edges: Times = (1.0, 2.0, 3.0, 4.0),
) -> LoadRecord:
    """Good requests, of users in turn, sent when they were due unless ``sent`` says otherwise."""
    count = len(start)
    zeros = np.zeros(count, dtype=np.int64)
    return LoadRecord(
        users=users,
        rate_rps=rate_rps,
        window_edges=np.array(edges),
        user=np.arange(count) % users,
        start=np.array(start),
        sent=np.array(start if sent is None else sent),
        end=np.array(end),
        status=np.full(count, OK),
        code=np.full(count, 200),
        size=zeros,
        body=zeros,
    )
