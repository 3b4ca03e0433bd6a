"""What the instrument must agree with, and by how much: pure functions of records and logs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from servebench.stats.records import OK, LoadRecord
from servebench.system.files import rounded

SHARE = 0.03
"""How far rates and latencies may be off, as a share of what they must be."""
P50_MS, P99_MS = 0.5, 2.0
"""Below 17 ms and 67 ms these are more than SHARE: the client's own path through kernel and event
loop, which is part of any latency that a client sees, and the scheduler's share in a p99."""
SECOND_TOOL_SHARE = 0.05


@dataclass(frozen=True)
class Check:
    """One comparison.

    Attributes:
        expected, measured: in ``unit``; None where it could not be made, which is not passed.
        bound: of the relative error, in either direction.
    """

    name: str
    expected: float | None
    measured: float | None
    unit: str
    bound: float

    @property
    def error(self) -> float | None:
        """Relative error; None where it is not known."""
        if not self.expected or self.measured is None:
            return None
        return self.measured / self.expected - 1

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
    """What the client recorded against the server's log: how many requests, and their latencies.

    A percentile is that of the same requests on both sides, so its error of sampling is shared, and
    no fewest number of samples is needed for it. Where the server has seen more or fewer requests
    than the client has sent, it is not known which are the same: that alone is reported.

    Args:
        record: all that was sent to the server.
        log: arrival and departure of each request, in the order of departure, shape (n, 2), seconds.
    """
    checks = [Check(f"{name}: requests", float(len(log)), float(len(record.status)), "requests", 0.0)]
    if len(log) != len(record.status):
        return checks
    inside = (record.status == OK) & record.in_window
    there_ms = (log[inside, 1] - log[inside, 0]) * 1000
    latency_ms = (record.end - record.start)[inside] * 1000
    for percent, floor_ms in ((50, P50_MS), (99, P99_MS)):
        expected = float(np.percentile(there_ms, percent))
        measured = float(np.percentile(latency_ms, percent))
        bound = max(SHARE, floor_ms / expected)
        checks.append(Check(f"{name}: p{percent}, server's log", expected, measured, "ms", bound))
    return checks
