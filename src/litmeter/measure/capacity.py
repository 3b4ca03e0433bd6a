"""Capacity: the highest rate of arrivals that keeps the objective, found by probes of some seconds each.

The search begins near the rate of a closed loop. Each probe then offers an absolute rate, a step away from
the capacity that a pooled fit of all probes so far estimates (litmeter.stats.curve). Every probe counts:
leaving out probes by their outcome would bias the result. The search always takes its whole time: stopping at
a narrow interval would make intervals too narrow.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from litmeter.errors import LoadError
from litmeter.load import LoadPlan, Trace
from litmeter.measure.figures import CLIENT_BOUND
from litmeter.measure.rows import TurnRow
from litmeter.measure.turn import Result, Sample, Schedule, Turn, make_ready, measure
from litmeter.params import ObjectiveSettings
from litmeter.say.tables import pluralise, significant
from litmeter.stats.curve import Curve, Probes, fit, interval
from litmeter.stats.rates import wilson_interval
from litmeter.stats.records import WINDOWS, Limits, LoadRecord
from litmeter.system.files import rounded

Status = Literal["resolved", "unresolved", "slo_unreachable", "above_range"]

PEAK_GAIN, MORE_USERS, MOST_USERS = 1.03, 4, 256
"""The closed loop has reached its peak when MORE_USERS times as many users gain less than PEAK_GAIN."""
PEAK_S, SLOW_PEAK_S, PEAK_WARMUP_S = 1.5, 4.0, 0.3
"""Windows of a closed loop, in seconds; with few answers up to SLOW_PEAK_S, or two objectives."""
PROBE_S, WARMUP_S = 4.0, 0.7
FEWEST_DUE, FEWEST_OBJECTIVES, WARMUP_OBJECTIVES = 50, 20, 5
"""A probe lasts at least until FEWEST_DUE requests are due and, around an estimate, FEWEST_OBJECTIVES times
the objective; its warm-up then lasts WARMUP_OBJECTIVES times the objective."""
LONGEST_SHARE = 1 / 16
"""Largest share of the whole time for a probe, so that each block of probes has one at least."""
FIRST_SHARE, LOWEST_SHARE = 0.75, 0.03
"""Shares of the peak: the first probe's rate, and the lowest rate that is searched."""
RAISE, MOST_RAISE, LOWER = 0.12, 0.24, -0.15
"""First steps in ln(rate) while all probes keep the objective, or all miss it; each step doubles."""
STEPS = (0.08, -0.08, 0.03, -0.03)
"""Distances of later probes from the estimate, in ln(rate)."""
NEAR = 0.1
"""Distance from the capacity, in ln(rate), of probes that show how long a request takes there."""
FEWEST_PROBES = 3
"""Minimum probes for an interval."""
WAIT_FACTOR, SHORTEST_WAIT_S = 10.0, 2.0
"""Timeout of a request: this multiple of the objective, but at least SHORTEST_WAIT_S."""
EVEN_STEPS = np.array([0.5698402909980532, 0.7548776662466927])
"""Multiples of these, modulo 1, cover a square evenly: powers of 1 / p, where p**3 = p + 1 (Roberts 2018).
Multiples of the second nearly repeat after four, as STEPS do, so the first is for what matters more."""


@dataclass(frozen=True)
class CapacityMetrics:
    """Content of metrics/capacity/NAME.json; docs/capacity.md says what each key means."""

    status: Status
    reason: str
    slo_ms: float | None
    miss: float
    capacity_rps: float | None
    low_rps: float | None
    high_rps: float | None
    peak_rps: float
    probes: int
    seconds: float
    first_ms: float | None = None
    piece_ms: float | None = None
    mean_s: float | None = None

    @property
    def limits(self) -> Limits:
        """What a request had to keep to."""
        return Limits(self.slo_ms, self.first_ms, self.piece_ms)


@dataclass(frozen=True)
class CapacityResult:
    """The capacity, the turns that it was read from, and the curve through the probes, if there is one.

    ``missed`` of a probe's row leaves out the load generator's own lateness; a probe counts unless its row is
    void. ``measured_at`` is empty for a capacity that was measured just now.
    """

    metrics: CapacityMetrics
    rows: Sequence[TurnRow]
    curve: Curve | None
    measured_at: str = ""


def capacity(
    names: Sequence[str],
    objective: ObjectiveSettings,
    timeout_s: float,
    burstiness: float = 1.0,
    trace: Trace | None = None,
) -> Schedule[dict[str, CapacityResult]]:
    """Search the capacities of subjects in turn, probe by probe, each for ``objective.max_s``.

    Subjects that do not fit into memory together are searched one group after another.

    Args:
        burstiness: burstiness of the arrivals; see ``LoadPlan``.
        trace: send its requests instead, at a multiple of its mean rate.

    Raises:
        LoadError: a server refused all requests.
    """
    found: dict[str, CapacityResult] = {}
    while missing := [name for name in names if name not in found]:
        ready = yield from make_ready(missing)
        found |= yield from in_turn(
            {name: search(name, objective, timeout_s, burstiness, trace) for name in ready.names}
        )
    return found


def in_turn(schedules: Mapping[str, Schedule[Result]]) -> Schedule[dict[str, Result]]:
    """Run schedules in turn, a turn of each after the other; each must ask for at least one turn."""
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


def search(
    name: str, objective: ObjectiveSettings, timeout_s: float, burstiness: float, trace: Trace | None
) -> Schedule[CapacityResult]:
    """Search the capacity of one served subject; see ``capacity``."""
    limits = objective.limits
    slo_s = (limits.slo_ms or limits.first_ms or limits.piece_ms or 0.0) / 1000
    rows: list[TurnRow] = []
    overloaded: list[bool] = []  # by probe
    evenly = trace is not None
    plan = LoadPlan(
        users=1,
        requests=1,
        warmup_s=PEAK_WARMUP_S,
        min_s=PEAK_S,
        max_s=max(SLOW_PEAK_S, 2 * slo_s if limits.slo_ms else timeout_s),
        max_windows=WINDOWS,
        timeout_s=timeout_s
        if limits.slo_ms is None
        else min(timeout_s, max(SHORTEST_WAIT_S, WAIT_FACTOR * slo_s)),
        seed=objective.seed,
        burstiness=burstiness,
    )
    users, best_rps, rate_rps, kept_rps = 1, 0.0, math.inf, 0.0
    while users <= MOST_USERS and rate_rps > PEAK_GAIN * best_rps:
        best_rps = rate_rps if rows else 0.0
        own = replace(plan, users=users, requests=2 * users)
        row = (yield from measure(Turn(name, own, len(rows), limits, "closed loop"))).row
        if not rows and row.failed and not row.answers:
            raise LoadError(f"{name} answered no request well: {row.void}")
        rows.append(row)
        users, rate_rps = MORE_USERS * users, row.rate_rps or 0.0
        if not _surely_misses(row, objective.miss):
            kept_rps = max(kept_rps, row.highest_rps)
        elif kept_rps:
            break
    while (end := _end_of(rows, overloaded, objective.miss)) is None:
        probes, curve = _counted(rows, evenly), curve_of(rows, objective.miss, evenly)
        if curve is not None:
            rate_rps = curve.capacity_rps * math.exp(_step(probes, objective.miss, evenly))
        elif len(probes):
            double = 2 ** (len(probes) - 1)
            kept = probes.shares[-1] <= objective.miss
            step = min(RAISE * double, MOST_RAISE) if kept else LOWER * double
            rate_rps = float(probes.rates_rps[-1]) * math.exp(step)
        else:
            rate_rps = FIRST_SHARE * kept_rps
        settled_s = 0.0 if curve is None else slo_s
        if limits.slo_ms is None:  # an answer takes longer than its pieces
            settled_s = max(settled_s, (rows[0].mean_ms or 0.0) / 1000)
        seconds = max(FEWEST_DUE / rate_rps, FEWEST_OBJECTIVES * settled_s)
        seconds = max(PROBE_S, min(seconds, LONGEST_SHARE * objective.max_s))
        warmup_s = max(WARMUP_S, min(WARMUP_OBJECTIVES * settled_s, seconds / 2))
        if sum(row.seconds for row in rows) + warmup_s + seconds > objective.max_s:
            break
        in_flight_s = slo_s if limits.slo_ms else slo_s + max(row.mean_ms or 0.0 for row in rows) / 1000
        most = max(MOST_USERS, math.ceil(2 * rate_rps * in_flight_s))
        own = replace(plan, users=most, rate_rps=rate_rps, repeat=len(rows))
        own = replace(own, warmup_s=warmup_s, min_s=seconds, max_s=seconds)
        if trace is not None:
            own = of_trace(own, trace)
        near = "" if curve is None else f", capacity near {significant(curve.capacity_rps, 4)}/s"
        note = f"probe at {significant(rate_rps, 4)}/s{near}"
        sample = yield from measure(Turn(name, own, len(rows), limits, note))
        rows.append(probe_row(sample, objective))
        overloaded.append((rows[-1].high_rps or math.inf) < sample.requests.due_rps)
    return _result_of(rows, end, objective, evenly)


def of_trace(plan: LoadPlan, trace: Trace) -> LoadPlan:
    """The probe of ``plan`` with a stretch of the trace, sped up or slowed down to the plan's rate.

    The stretch surrounds a request; the request, and its place in the stretch, come from a sequence that
    covers the trace evenly. So stretches are chosen in proportion to their requests, and every request counts
    alike.
    """
    assert plan.rate_rps is not None
    scale = plan.rate_rps / trace.rate_rps
    request, place = (plan.seed + plan.repeat) * EVEN_STEPS % 1
    before_s = scale * (plan.warmup_s + place * plan.min_s)
    begin_s = trace.due_s[int(request * len(trace.due_s))] - before_s
    # The load goes on while the last requests of the windows are answered.
    due_s, bodies = trace.stretch(begin_s, scale, plan.warmup_s + plan.min_s + plan.timeout_s)
    return replace(plan, due_s=due_s, bodies=bodies)


def probe_row(sample: Sample, objective: ObjectiveSettings) -> TurnRow:
    """The row of a probe without the load generator's lateness; void if the verdict may be its own.

    That is where it depends on lateness, or where the objective is missed by a load generator that is full.
    """
    missed = sample.row.missed
    if missed is None:
        return replace(sample.row, void="no request was due")
    own = missed - missed_by_lateness(sample.requests, objective.limits)
    void = ""
    if (missed > objective.miss) != (own > objective.miss):
        void = "the load generator was late"
    elif own > objective.miss:
        void = next((why for why in sample.row.void.split("; ") if why.startswith(CLIENT_BOUND)), "")
    return replace(sample.row, missed=round(own, 5), void=void)


def missed_by_lateness(record: LoadRecord, limits: Limits) -> float:
    """Share of requests that missed the objective only because the load generator sent them late.

    A request that is due while all connections are busy waits for the server, not for the load generator.
    """
    in_flight = np.searchsorted(np.sort(record.sent), record.start)
    in_flight -= np.searchsorted(np.sort(record.end), record.start)
    only_late = limits.missed(record) & ~limits.missed(record, since_sent=True)
    lost = only_late & (in_flight < record.users)
    return float(lost[record.in_window].mean())


def _peak_rps(rows: Sequence[TurnRow]) -> float:
    return max(row.highest_rps for row in rows if row.offered_rps is None)


def _surely_misses(row: TurnRow, miss: float) -> bool:
    """Whether a closed loop missed the objective, and not by chance."""
    if not row.answers or row.missed is None:
        return True
    return wilson_interval(round(row.missed * row.answers), row.answers)[0] > miss


def _step(probes: Probes, miss: float, evenly: bool) -> float:
    """Distance of the next probe from the estimate, in ln(rate); wider upwards while probes keep to it.

    A slow spell keeps the estimate low for long: that a machine is faster again, only higher rates show. Not
    so where few stretches of a trace have bursts (``evenly``), as all others keep to it.
    """
    step = STEPS[len(probes) % len(STEPS)]
    missed = np.flatnonzero(probes.shares > miss)
    streak = len(probes) - 1 - int(missed[-1]) if len(missed) else len(probes)
    return step if evenly or step < 0 else min(MOST_RAISE, step * (1 + streak // len(STEPS)))


def _counted(rows: Sequence[TurnRow], evenly: bool = False) -> Probes:
    probes = (row for row in rows if row.offered_rps is not None and row.missed is not None and not row.void)
    found = [(row.offered_rps, row.missed, 1 if evenly else row.sent) for row in probes]
    return Probes(*np.array(found, dtype=np.float64).reshape(-1, 3).T)


def curve_of(rows: Sequence[TurnRow], miss: float, evenly: bool = False) -> Curve | None:
    """The curve through the probes that count; None if all keep the objective, or all miss it.

    Probes are weighted by their requests, or ``evenly``.
    """
    probes = _counted(rows, evenly)
    return fit(probes, miss) if len({share <= miss for share in probes.shares}) == 2 else None


def _end_of(rows: Sequence[TurnRow], overloaded: Sequence[bool], miss: float) -> tuple[Status, str] | None:
    """Status and reason that end a search before its time is over; None if it goes on."""
    probes = _counted(rows)
    kept = probes.shares <= miss
    if all(_surely_misses(row, miss) for row in rows if row.offered_rps is None):
        return "slo_unreachable", "a lone user's requests take longer, and so do those of more users"
    if len(kept) and not kept.any() and probes.rates_rps.min() <= LOWEST_SHARE * _peak_rps(rows):
        return "slo_unreachable", "the objective is missed at all rates"
    if kept.all() and overloaded[-2:] == [True, True]:
        return "above_range", "the objective is kept though more is offered than is answered"
    if kept.any() and kept.all() and all(row.void.startswith(CLIENT_BOUND) for row in rows[-2:]):
        return "above_range", f"more than that is the load generator's limit ({rows[-1].void})"
    return None


def _result_of(
    rows: Sequence[TurnRow], end: tuple[Status, str] | None, objective: ObjectiveSettings, evenly: bool
) -> CapacityResult:
    offered = [row for row in rows if row.offered_rps is not None]
    probes, curve = _counted(rows, evenly), curve_of(rows, objective.miss, evenly)
    low_rps = high_rps = None
    status: Status = "unresolved"
    reasons = [f"{pluralise(len(probes), 'probe')} in {objective.max_s:g} s (objective.max_s) are too few"]
    if end is not None:
        status, reasons = end[0], [end[1]]
        if status == "above_range":
            low_rps = max(row.rate_rps or 0.0 for row in offered if not row.void)
    elif curve is not None and len(probes) >= FEWEST_PROBES:
        low_rps, high_rps = interval(probes, objective.miss)
        high_rps = min(high_rps, max(_peak_rps(rows), curve.capacity_rps))
        spread = math.sqrt(high_rps / low_rps) - 1
        ends = " to ".join(f"{end / curve.capacity_rps - 1:+.0%}" for end in (low_rps, high_rps))
        wide = f"its interval is wide, {ends} (objective.tolerance: {objective.tolerance:.0%})"
        reasons = [f"{wide}; a longer objective.max_s narrows it"]
        if spread <= objective.tolerance:
            status, reasons = "resolved", []
    elif curve is None and len(probes) >= FEWEST_PROBES:
        did = "kept" if probes.shares[-1] <= objective.miss else "missed"
        reasons = [f"all {len(probes)} probes {did} the objective in {objective.max_s:g} s (objective.max_s)"]
    if 2 * (late := len(offered) - len(probes)) > len(offered):
        reasons.append(f"the load generator was late or full in {late} of {pluralise(len(offered), 'probe')}")
    metrics = CapacityMetrics(
        status=status,
        reason="; ".join(reasons),
        slo_ms=objective.slo_ms,
        miss=objective.miss,
        capacity_rps=None if curve is None else round(curve.capacity_rps, 2),
        low_rps=rounded(low_rps, 2),
        high_rps=rounded(high_rps, 2),
        peak_rps=round(_peak_rps(rows), 2),
        probes=len(probes),
        seconds=round(sum(row.seconds for row in rows), 1),
        first_ms=objective.first_ms,
        piece_ms=objective.piece_ms,
        mean_s=None if curve is None else _mean_s(offered, curve.capacity_rps),
    )
    return CapacityResult(metrics, rows, curve)


def _mean_s(offered: Sequence[TurnRow], capacity_rps: float) -> float | None:
    """Mean time of a request where about the capacity is offered; None without such a probe."""
    known = [
        (row.mean_ms, row.answers)
        for row in offered
        if row.mean_ms and abs(math.log((row.offered_rps or 1.0) / capacity_rps)) <= NEAR
    ]
    answers = sum(own for _, own in known)
    return round(sum(ms * own for ms, own in known) / answers / 1000, 3) if answers else None
