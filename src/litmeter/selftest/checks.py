"""Checks of the load generator's record against the server's log, with their tolerances."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from litmeter.stats.records import OK, LoadRecord
from litmeter.system.files import rounded

TOLERANCE = 0.03
"""Largest relative error of rates and latencies."""
P50_TOLERANCE_MS, P99_TOLERANCE_MS = 0.5, 2.0
"""Largest error of short latencies (below 17 ms and 67 ms these exceed TOLERANCE): a client's latency
includes its own path through kernel and event loop, and a p99 the delays of the scheduler."""
SECOND_TOOL_TOLERANCE = 0.05


@dataclass(frozen=True)
class Check:
    """One comparison.

    Attributes:
        expected, measured: in ``unit``; None where the comparison could not be made, which is a failure.
        bound: largest error, in either direction.
        absolute: the error is the difference; else it is relative to ``expected``.
    """

    name: str
    expected: float | None
    measured: float | None
    unit: str
    bound: float
    absolute: bool = False

    @property
    def error(self) -> float | None:
        """The error; None where it is not known."""
        if self.expected is None or self.measured is None:
            return None
        if self.absolute:
            return self.measured - self.expected
        return self.measured / self.expected - 1 if self.expected else None

    @property
    def passed(self) -> bool:
        """Whether the error is known and within its bound."""
        return self.error is not None and abs(self.error) <= self.bound

    def record(self) -> dict[str, Any]:
        """The check as metrics/verify.json holds it."""
        return {
            "name": self.name,
            "expected": rounded(self.expected, 3),
            "measured": rounded(self.measured, 3),
            "unit": self.unit,
            "error": rounded(self.error, 5),
            "bound": round(self.bound, 5),
            "passed": self.passed,
        }


def against_log(name: str, record: LoadRecord, log: npt.NDArray[np.float64]) -> list[Check]:
    """Compare the client's record with the server's log: number of requests, and latency percentiles.

    Both sides take a percentile of the same requests, so the sampling error is the same, and no minimum
    number of samples is needed. Where the numbers of requests differ, requests cannot be matched, and
    only that check is returned.

    Args:
        record: all that was sent to the server.
        log: arrival and departure of each request, in the order of departure, shape (n, 2), seconds.
    """
    checks = [Check(f"{name}: requests", float(len(log)), float(len(record.status)), "requests", 0.0)]
    if len(log) != len(record.status):
        return checks
    inside = (record.status == OK) & record.in_window
    server_ms = (log[inside, 1] - log[inside, 0]) * 1000
    client_ms = (record.end - record.start)[inside] * 1000
    for percent, tolerance_ms in ((50, P50_TOLERANCE_MS), (99, P99_TOLERANCE_MS)):
        expected = float(np.percentile(server_ms, percent))
        measured = float(np.percentile(client_ms, percent))
        bound = max(TOLERANCE, tolerance_ms / expected)
        checks.append(Check(f"{name}: p{percent}, server's log", expected, measured, "ms", bound))
    return checks
