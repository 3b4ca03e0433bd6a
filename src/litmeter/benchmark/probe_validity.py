"""Validity of a probe of a capacity: what besides the server may have made requests late."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from litmeter.params import ObjectiveSettings
from litmeter.stats.capacity import Probe
from litmeter.stats.objective import misses
from litmeter.stats.records import OK, LoadRecord

LATE_SHARE = 0.1
"""Of the misses that are allowed, those that the load generator's own lateness may cause: they move the
capacity by less than 1%."""
BUSY_CORES = 0.8
PEAK_MOVED = 0.12
"""From before a probe to after it; a steady server's two rates differ by up to half of this by chance."""
SLOW = 1.15
"""Times a core's median time for the same work: near the peak, the queue of half a second at this speed takes
seconds to go."""


@dataclass(frozen=True)
class Conditions:
    """What a probe was measured under.

    Attributes:
        before_rps, after_rps: the closed loop's peak.
        slowest: how many times their median time the cores needed for the same work, in the probe's slowest
            moment; None where that is not known.
    """

    before_rps: float
    after_rps: float
    slowest: float | None

    @property
    def steady(self) -> bool:
        """See ``is_steady``."""
        return is_steady(self.slowest)


def is_steady(slowest: float | None) -> bool:
    """Whether no moment is known to have been slow, by ``Conditions.slowest``."""
    return slowest is None or slowest <= SLOW


def void_reason(record: LoadRecord, probe: Probe, objective: ObjectiveSettings, under: Conditions) -> str:
    """Why a probe does not count; empty if it does."""
    late = missed_by_lateness(record, objective.slo_ms)
    assert record.rate_rps is not None
    off = abs(probe.rate_rps / record.rate_rps - 1)
    if late > LATE_SHARE * objective.miss:
        return f"the load generator was late, by which {late:.1%} of the requests missed"
    if record.cores > BUSY_CORES:
        return f"the load generator was busy, {record.cores:.0%} of a core"
    if off > 3 / math.sqrt(probe.requests):
        return f"the rate was off by {off:.0%}"
    if abs(under.after_rps / under.before_rps - 1) > PEAK_MOVED:
        return f"the peak moved from {under.before_rps:.1f} to {under.after_rps:.1f} req/s"
    return ""


def missed_by_lateness(record: LoadRecord, slo_ms: float) -> float:
    """Share of the requests that missed the objective only because the load generator sent them late.

    A request that is due while all connections are busy waits for the server, not for the load generator.
    """
    in_flight = np.searchsorted(np.sort(record.sent), record.start)
    in_flight -= np.searchsorted(np.sort(record.end), record.start)
    in_time_if_sent_in_time = (record.status == OK) & (1000 * (record.end - record.sent) <= slo_ms)
    lost = misses(record, slo_ms) & in_time_if_sent_in_time & (in_flight < record.users)
    return float(lost[record.in_window].mean())
