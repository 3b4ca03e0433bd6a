"""Loads for tests."""

from __future__ import annotations

from litmeter.loadgen import LoadPlan
from litmeter.params import LoadSettings


def short_load(users: int) -> LoadSettings:
    """Photos for half a second."""
    return LoadSettings(
        users=(users,),
        requests=10,
        min_s=0.5,
        max_s=0.5,
        warmup_s=0.1,
        timeout_s=30.0,
        request_body="image",
        seed=1,
    )


def plan(users: int, **changes: float) -> LoadPlan:
    """Of three windows of two seconds together, in which one answer is enough."""
    given = {"requests": 1, "warmup_s": 0.3, "min_s": 2.0, "max_s": 2.0, "timeout_s": 10.0, "seed": 1}
    return LoadPlan(users=users, max_windows=3, **{**given, **changes})  # type: ignore[arg-type]
