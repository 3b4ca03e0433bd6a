"""Capacity: probes of random arrivals, each for some seconds, around where the objective is just kept.

The rate of a closed loop says where to begin. The probes then offer absolute rates, a staircase of steps
around a pooled fit of all probes so far (litmeter.stats.capacity). Every probe counts: to leave some out
because of how they ended would move the result. A search always takes its whole time: one that ended as soon
as its interval is narrow would have too narrow ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from litmeter.errors import LoadError
from litmeter.load import LoadPlan
from litmeter.measure.rows import TurnRow
from litmeter.measure.turn import Result, Sample, Schedule, Turn, measure, serve
from litmeter.params import ObjectiveSettings
from litmeter.stats.capacity import Curve, fit, interval
from litmeter.stats.rates import wilson_interval
from litmeter.stats.records import OK, WINDOWS, Floats, LoadRecord, misses
from litmeter.system.files import rounded
from litmeter.system.tables import pluralise

Status = Literal["resolved", "unresolved", "slo_unreachable", "above_range"]
ESTIMATED: tuple[Status, ...] = ("resolved", "unresolved")
"""Those with an estimate, unless all probes lie on one side of the objective."""

PEAK_GAIN, MORE_USERS, MOST_USERS = 1.03, 4, 256
"""The closed loop's peak is reached where MORE_USERS times as many users bring less than this."""
PEAK_S, SLOW_PEAK_S, PEAK_WARMUP_S = 1.5, 4.0, 0.3
"""Windows of a closed loop; up to SLOW_PEAK_S while there are few answers."""
PROBE_S, WARMUP_S = 4.0, 0.7
FEWEST_DUE, FEWEST_OBJECTIVES, WARMUP_OBJECTIVES = 50, 20, 5
"""A probe is longer where so many requests, or times the objective, take longer, and its warm-up likewise."""
LONGEST_SHARE = 1 / 16
"""Of the whole time, that a probe takes at most: two for each block of the jackknife."""
FIRST_SHARE, LOWEST_SHARE = 0.75, 0.03
"""Of the peak: the first rate, and the one below which no capacity is looked for."""
RAISE, LOWER = 0.06, -0.1
"""First steps, in ln(rate); twice as long each time while all probes keep the objective, or all miss it."""
STEPS = (0.12, -0.12, 0.05, -0.05)
"""Later probes' distances from the estimate, in ln(rate)."""
FEWEST_PROBES = 3
"""For an interval."""
WAIT_FACTOR, SHORTEST_WAIT_S = 10.0, 2.0
"""A request has missed long before this many times the objective; waiting on would only take time."""


@dataclass(frozen=True)
class CapacityMetrics:
    """Content of metrics/capacity/NAME.json.

    Attributes:
        status: "resolved"; "unresolved" where the interval reaches beyond the tolerance, or is unknown;
            "slo_unreachable" where even low rates miss the objective; "above_range" where it is kept at rates
            that are more than is answered.
        reason: of a status other than "resolved".
        slo_ms, miss: the objective.
        capacity_rps, low_rps, high_rps: the capacity with its 95% interval; None where unknown. Of
            "above_range" only the low end is known, the highest rate that was answered.
        peak_rps: the closed loop's rate.
        probes: number of those that count.
        seconds: that the search took.
    """

    status: Status
    reason: str
    slo_ms: float
    miss: float
    capacity_rps: float | None
    low_rps: float | None
    high_rps: float | None
    peak_rps: float
    probes: int
    seconds: float


@dataclass(frozen=True)
class CapacityResult:
    """The capacity, and what it was read from.

    Attributes:
        rows: of closed loops and probes. Those of probes have ``missed`` without the load generator's own
            lateness; they count unless they are ``void``.
        curve: through the probes; None where there is no estimate.
    """

    metrics: CapacityMetrics
    rows: Sequence[TurnRow]
    curve: Curve | None


def capacity(
    names: Sequence[str], objective: ObjectiveSettings, timeout_s: float
) -> Schedule[dict[str, CapacityResult]]:
    """Search the capacities of subjects side by side, probe by probe in turn, each for ``objective.max_s``.

    Args:
        names: of subjects that are served; those that do not fit into memory together follow.
        timeout_s: of a request, at most.

    Raises:
        LoadError: a server refused all requests.
    """
    found: dict[str, CapacityResult] = {}
    while missing := [name for name in names if name not in found]:
        serving = yield from serve(missing)
        found |= yield from in_turn({name: search(name, objective, timeout_s) for name in serving.names})
    return found


def in_turn(schedules: Mapping[str, Schedule[Result]]) -> Schedule[dict[str, Result]]:
    """Run schedules of one turn at least side by side, a turn of each after the other."""
    results: dict[str, Result] = {}
    wanted = {name: next(schedule) for name, schedule in schedules.items()}
    while wanted:
        for name in list(wanted):
            sample = yield wanted[name]
            try:
                wanted[name] = schedules[name].send(sample)
            except StopIteration as ended:
                results[name] = ended.value
                del wanted[name]
    return results


def search(name: str, objective: ObjectiveSettings, timeout_s: float) -> Schedule[CapacityResult]:
    """Search the capacity of one subject that is served."""
    slo_s = objective.slo_ms / 1000
    rows: list[TurnRow] = []
    plan = LoadPlan(
        users=1,
        requests=1,
        warmup_s=PEAK_WARMUP_S,
        min_s=PEAK_S,
        max_s=SLOW_PEAK_S,
        max_windows=WINDOWS,
        timeout_s=min(timeout_s, max(SHORTEST_WAIT_S, WAIT_FACTOR * slo_s)),
        seed=objective.seed,
    )
    users, best_rps, rate_rps = 1, 0.0, math.inf
    while users <= MOST_USERS and rate_rps > PEAK_GAIN * best_rps:
        best_rps = rate_rps if rows else 0.0
        own = replace(plan, users=users, requests=2 * users)
        row = (yield from measure(Turn(name, own, len(rows), objective.slo_ms, "closed loop"))).row
        if not rows and row.failed and not row.answers:
            raise LoadError(f"{name} answered no request well: {row.void}")
        rows.append(row)
        users, rate_rps = MORE_USERS * users, row.rate_rps or 0.0
    while (found := result_of(rows, objective)).metrics.status in ESTIMATED:
        rate_rps = next_rate(found)
        seconds = max(FEWEST_DUE / rate_rps, FEWEST_OBJECTIVES * slo_s)
        seconds = max(PROBE_S, min(seconds, LONGEST_SHARE * objective.max_s))
        warmup_s = max(WARMUP_S, min(WARMUP_OBJECTIVES * slo_s, seconds / 2))
        if found.metrics.seconds + warmup_s + seconds > objective.max_s:
            break
        own = replace(
            plan,
            users=max(MOST_USERS, math.ceil(2 * rate_rps * slo_s)),
            rate_rps=rate_rps,
            warmup_s=warmup_s,
            min_s=seconds,
            max_s=seconds,
            repeat=len(rows),
        )
        note = f"probe {len(rows)} at {rate_rps:.4g}/s"
        rows.append(
            probe_row((yield from measure(Turn(name, own, len(rows), objective.slo_ms, note))), objective)
        )
    return found


def probe_row(sample: Sample, objective: ObjectiveSettings) -> TurnRow:
    """The row of a probe: without the load generator's lateness, void where its verdict depends on that."""
    assert sample.record is not None
    missed = sample.row.missed
    if missed is None:
        return replace(sample.row, void="no request was due")
    own = missed - missed_by_lateness(sample.record, objective.slo_ms)
    late = (missed > objective.miss) != (own > objective.miss)
    return replace(sample.row, missed=round(own, 5), void="the load generator was late" if late else "")


def missed_by_lateness(record: LoadRecord, slo_ms: float) -> float:
    """Share of the requests that missed the objective only because the load generator sent them late.

    A request that is due while all connections are busy waits for the server, not for the load generator.
    """
    in_flight = np.searchsorted(np.sort(record.sent), record.start)
    in_flight -= np.searchsorted(np.sort(record.end), record.start)
    in_time_if_sent_in_time = (record.status == OK) & (1000 * (record.end - record.sent) <= slo_ms)
    lost = misses(record, slo_ms) & in_time_if_sent_in_time & (in_flight < record.users)
    return float(lost[record.in_window].mean())


def next_rate(found: CapacityResult) -> float:
    """The rate to offer after these turns; after a void probe the same again."""
    rates_rps, shares = counted(found.rows)
    if not len(shares):
        return FIRST_SHARE * found.metrics.peak_rps
    if found.curve is not None:
        return found.curve.capacity_rps * math.exp(STEPS[len(shares) % len(STEPS)])
    step = RAISE if shares[-1] <= found.metrics.miss else LOWER
    return float(rates_rps[-1]) * math.exp(step * 2 ** (len(shares) - 1))


def counted(rows: Sequence[TurnRow]) -> tuple[Floats, Floats]:
    """Rates that were offered and shares of missed requests, of the probes that count, in their order."""
    probes = [
        (row.offered_rps, row.missed)
        for row in rows
        if row.offered_rps and row.missed is not None and not row.void
    ]
    rates_rps, shares = np.array(probes, dtype=np.float64).reshape(-1, 2).T
    return rates_rps, shares


def curve_of(rows: Sequence[TurnRow], miss: float) -> Curve | None:
    """The curve through the probes that count; None where all keep the objective, or all miss it."""
    rates_rps, shares = counted(rows)
    return fit(rates_rps, shares, miss) if len({share <= miss for share in shares}) == 2 else None


def result_of(rows: Sequence[TurnRow], objective: ObjectiveSettings) -> CapacityResult:
    """The capacity by the turns of a search, one at least."""
    loops = [row for row in rows if row.offered_rps is None]
    probes = [row for row in rows if row.offered_rps is not None]
    rates_rps, shares = counted(rows)
    kept = shares <= objective.miss
    peak_rps = max(row.highest_rps for row in loops)
    curve = curve_of(rows, objective.miss)
    low_rps = high_rps = None
    status: Status = "unresolved"
    reason = f"{pluralise(len(shares), 'probe')} in {objective.max_s:g} s (objective.max_s) are too few"
    if not any(may_keep(row, objective.miss) for row in loops):
        status, reason = (
            "slo_unreachable",
            "a lone user's requests take longer, and so do those of more users",
        )
    elif len(kept) and not kept.any() and rates_rps.min() <= LOWEST_SHARE * peak_rps:
        status, reason = "slo_unreachable", "the objective is missed at all rates"
    elif kept.all() and len(probes) > 1 and all(is_overloaded(row) for row in probes[-2:]):
        status, reason = "above_range", "the objective is kept though more is offered than is answered"
        low_rps = max(row.rate_rps or 0.0 for row in probes)
    elif curve is not None and len(shares) >= FEWEST_PROBES:
        low_rps, high_rps = interval(rates_rps, shares, objective.miss)
        spread = math.sqrt(high_rps / low_rps) - 1
        if spread <= objective.tolerance:
            status, reason = "resolved", ""
        else:
            reason = f"its interval is wide, {spread:.0%} of it to either side (objective.tolerance)"
    if 2 * (late := len(probes) - len(shares)) > len(probes):
        reason += f"; the load generator was late in {late} of {pluralise(len(probes), 'probe')}"
    metrics = CapacityMetrics(
        status=status,
        reason=reason,
        slo_ms=objective.slo_ms,
        miss=objective.miss,
        capacity_rps=None if curve is None else round(curve.capacity_rps, 2),
        low_rps=rounded(low_rps, 2),
        high_rps=rounded(high_rps, 2),
        peak_rps=round(peak_rps, 2),
        probes=len(shares),
        seconds=round(sum(row.seconds for row in rows), 1),
    )
    return CapacityResult(metrics, rows, curve)


def may_keep(row: TurnRow, miss: float) -> bool:
    """Whether a closed loop kept the objective, or missed it by chance."""
    if not row.answers or row.missed is None:
        return False
    return wilson_interval(round(row.missed * row.answers), row.answers)[0] <= miss


def is_overloaded(row: TurnRow) -> bool:
    """Whether more was offered in a probe than was answered."""
    assert row.offered_rps is not None
    return row.high_rps is not None and row.high_rps < row.offered_rps
