"""The objective of a load: how many requests may fail or take longer than a given time."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from litmeter.stats.records import OK, LoadRecord

ALLOWED_LATE = 0.05
"""Share of the requests."""


def misses(record: LoadRecord, slo_ms: float) -> npt.NDArray[np.bool_]:
    """Which requests failed, timed out or took longer than ``slo_ms``."""
    missed: npt.NDArray[np.bool_] = (record.status != OK) | (1000 * (record.end - record.start) > slo_ms)
    return missed


def late_share(record: LoadRecord, slo_ms: float) -> float | None:
    """Share of the requests of the reported windows that failed or took longer; None where there are none."""
    inside = record.in_window
    return float(misses(record, slo_ms)[inside].mean()) if inside.any() else None


def goodput_rps(record: LoadRecord, slo_ms: float) -> float:
    """Requests per second of the reported windows that were answered well and in time."""
    opened, closed = record.window
    return float((record.in_window & ~misses(record, slo_ms)).sum()) / (closed - opened)
