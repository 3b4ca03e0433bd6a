"""The objective of a load: how many requests may take longer than a given time."""

from __future__ import annotations

from servebench.stats.records import OK, LoadRecord

ALLOWED_LATE = 0.05
"""Share of the requests."""


def late_share(record: LoadRecord, slo_ms: float) -> float | None:
    """Share of the requests of the reported windows that failed or took longer; None where there are none."""
    inside = record.in_window
    if not inside.any():
        return None
    late = (record.status != OK) | (1000 * (record.end - record.start) > slo_ms)
    return float(late[inside].mean())
