"""Results of a capacity search: a row per probe, and the capacity with its interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Literal

import numpy as np

from litmeter.params import ObjectiveSettings
from litmeter.stats.capacity import CapacitySearch, Curve, Probe
from litmeter.stats.objective import goodput_rps
from litmeter.stats.rates import percentile
from litmeter.stats.records import OK, LoadRecord
from litmeter.system.files import rounded

Status = Literal["resolved", "unresolved", "slo_unreachable", "above_range"]
ESTIMATED: tuple[Status, ...] = ("resolved", "unresolved")
"""Of these a capacity may be known."""
JUST_BELOW = 0.1
"""Probes at no less than this below the capacity, in ln(load), show the latencies there."""


@dataclass(frozen=True)
class ProbeRow:
    """One probe, in plots/capacity/NAME.csv.

    Attributes:
        phase: "search", or "confirm" for the one at the interval's lower end.
        asked_rps, rate_rps: the mean rate that was asked for, and that of the requests that were due.
        peak_rps: of a closed loop before and after the probe, geometric mean.
        missed, missed_error: share of the requests that missed the objective, and its standard error from
            the spread of ten parts.
        goodput_rps: requests per second that kept to the objective.
        failed: requests that failed or timed out.
        slowest_moment: how many times their median time the machine's cores needed for the same work in the
            slowest half second; None where that is not known.
        void_reason: why it does not count, empty where it does.
    """

    phase: str
    asked_rps: float
    rate_rps: float
    peak_rps: float
    requests: int
    missed: float
    missed_error: float
    goodput_rps: float
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    failed: int
    slowest_moment: float | None
    void_reason: str

    @classmethod
    def of(
        cls,
        record: LoadRecord,
        probe: Probe,
        asked_rps: float,
        slo_ms: float,
        phase: str,
        slowest_moment: float | None,
        void_reason: str,
    ) -> ProbeRow:
        """The row of a probe."""
        inside = record.in_window
        latency_ms = 1000 * (record.end - record.start)[inside & (record.status == OK)]
        p50_ms, p95_ms, p99_ms = (rounded(percentile(latency_ms, p), 2) for p in (50, 95, 99))
        return cls(
            phase=phase,
            asked_rps=round(asked_rps, 3),
            rate_rps=round(probe.rate_rps, 3),
            peak_rps=round(probe.peak_rps, 3),
            requests=probe.requests,
            missed=round(probe.share, 5),
            missed_error=round(math.sqrt(probe.variance), 5),
            goodput_rps=round(goodput_rps(record, slo_ms), 3),
            p50_ms=p50_ms,
            p95_ms=p95_ms,
            p99_ms=p99_ms,
            failed=int((record.status[inside] != OK).sum()),
            slowest_moment=slowest_moment,
            void_reason=void_reason,
        )


@dataclass(frozen=True)
class CapacityMetrics:
    """Content of metrics/capacity/NAME.json.

    Attributes:
        status: "resolved"; "unresolved" where the time was too short, too many probes void or most unsteady;
            "slo_unreachable" where even low rates miss the objective; "above_range" where it is held at all
            rates below the peak.
        reason: of a status other than "resolved".
        capacity_rps, low_rps, high_rps: the capacity with its interval; None where unknown. Of "above_range"
            only the low end is known.
        share, share_low, share_high: the same over the closed loop's peak.
        peak_rps, users: the closed loop's rate, and its number of users.
        confirmed: whether a probe at the interval's low end, after the search, held the objective; None where
            there was none.
        probes, unsteady, void: probes that are not void, those of them in which the machine was slow for a
            moment, and those that are void.
        p50_ms, p95_ms, p99_ms, p999_ms: latencies of all steady probes just below the capacity together.
    """

    status: Status
    reason: str
    slo_ms: float
    miss: float
    capacity_rps: float | None
    low_rps: float | None
    high_rps: float | None
    share: float | None
    share_low: float | None
    share_high: float | None
    peak_rps: float | None
    users: int
    confirmed: bool | None
    probes: int
    unsteady: int
    void: int
    requests: int
    seconds: float
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    p999_ms: float | None


@dataclass
class SearchLog:
    """What a search has measured so far.

    Attributes:
        users: number of users of the closed loop that reaches the peak.
        peaks: its rate, each time it was measured.
        confirmed: whether a probe at the low end of the present interval held the objective.
        rows: of all probes.
        records: of the steady probes, with their loads.
    """

    users: int = 0
    peaks: list[float] = field(default_factory=list)
    confirmed: bool | None = None
    rows: list[ProbeRow] = field(default_factory=list)
    records: list[tuple[float, LoadRecord]] = field(default_factory=list)


@dataclass(frozen=True)
class CapacityResult:
    """The capacity, the probes, and the curve that it was read from, None where there is none."""

    metrics: CapacityMetrics
    rows: list[ProbeRow]
    curve: Curve | None


def metrics_of(
    status: Status,
    reason: str,
    search: CapacitySearch,
    log: SearchLog,
    objective: ObjectiveSettings,
    seconds: float,
) -> CapacityMetrics:
    """Summarise a search that took ``seconds``."""
    peak_rps = median(log.peaks) if log.peaks else None
    share = low = high = None
    curve = search.estimate() if status in ESTIMATED else None
    if curve is not None:
        share, (low, high) = math.exp(curve.load), (math.exp(load) for load in curve.interval)
    elif status == "above_range":
        low = math.exp(max(probe.load for probe in search.counted))
    latencies = _latencies_below(curve, log.records)
    return CapacityMetrics(
        status=status,
        reason=reason,
        slo_ms=objective.slo_ms,
        miss=objective.miss,
        **{
            f"{name}_rps": rounded(value and peak_rps and value * peak_rps, 2)
            for name, value in (("capacity", share), ("low", low), ("high", high))
        },
        share=rounded(share, 4),
        share_low=rounded(low, 4),
        share_high=rounded(high, 4),
        peak_rps=rounded(peak_rps, 2),
        users=log.users,
        confirmed=log.confirmed,
        probes=len(search.probes),
        unsteady=sum(not probe.steady for probe in search.probes),
        void=sum(bool(row.void_reason) for row in log.rows),
        requests=sum(row.requests for row in log.rows),
        seconds=round(seconds, 1),
        **{
            name: rounded(percentile(latencies, percent), 2)
            for name, percent in (("p50_ms", 50), ("p95_ms", 95), ("p99_ms", 99), ("p999_ms", 99.9))
        },
    )


def _latencies_below(
    curve: Curve | None, records: Sequence[tuple[float, LoadRecord]]
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Latencies (ms) of the good requests of the probes just below the capacity."""
    near = [
        record
        for load, record in records
        if curve is not None and curve.load - JUST_BELOW <= load <= curve.load
    ]
    blocks = [1000 * (r.end - r.start)[r.in_window & (r.status == OK)] for r in near]
    return np.concatenate(blocks) if blocks else np.array([])
