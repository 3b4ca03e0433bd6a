"""Capacity of a running server: probes of random arrivals, from the closed loop's peak down to the objective.

Beside every probe the peak is measured again, so that a machine that changes its speed changes both. A probe
that is void is repeated.

The CPU time of always the same work does not grow while it waits for a core. Where it grows, the core is
called slow; a virtual core may share a physical one with other machines.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import cycle
from statistics import median
from threading import Event, Thread
from time import monotonic, perf_counter, thread_time
from typing import Literal

import numpy as np
import numpy.typing as npt

from litmeter.errors import LoadError
from litmeter.load import LoadPlan
from litmeter.load.senders import Sender
from litmeter.measure.levels import failure_codes
from litmeter.params import ObjectiveSettings
from litmeter.stats.capacity import BLOCKS, CapacitySearch, Curve, Probe, mostly_unsteady
from litmeter.stats.rates import percentile, wilson_interval
from litmeter.stats.records import OK, TIMED_OUT, WINDOWS, LoadRecord, block_rates, goodput_rps, misses
from litmeter.system.files import rounded
from litmeter.system.progress import bar

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


EVERY_S = 0.005
STEPS = 1500
"""Of the work: some forty microseconds."""
MOMENT_S = 0.5
STOPPED = 100.0
"""How slow a moment counts as in which no work was done."""

Floats = npt.NDArray[np.float64]


@dataclass
class CoreSpeeds:
    """Does the same work every EVERY_S on one core after the other, in a thread, until the block is left."""

    _samples: list[tuple[float, int, float]] = field(default_factory=list)
    _ended: Event = field(default_factory=Event)

    def __enter__(self) -> CoreSpeeds:
        self._thread = Thread(target=self._measure)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _measure(self) -> None:
        movable = hasattr(os, "sched_setaffinity")
        cores = cycle(os.sched_getaffinity(0) if movable else (0,))
        while not self._ended.wait(EVERY_S):
            core = next(cores)
            if movable:
                with suppress(OSError):  # the core is no longer this process's
                    os.sched_setaffinity(0, {core})  # of this thread alone
            began = thread_time()
            sum(range(STEPS))
            self._samples.append((perf_counter(), core, thread_time() - began))

    def slowness(self, begin: float, end: float) -> Floats:
        """The work's CPU time in each moment over its median, the mean of all cores; STOPPED: none was done.

        What is slow for more than half of the time is the median itself, and not seen here.

        Args:
            begin, end: on the clock of ``perf_counter``; a rest of less than half a moment does not count.
        """
        samples = [sample for sample in self._samples if begin <= sample[0] < end]
        moments = round((end - begin) / MOMENT_S)
        if not samples:
            return np.full(moments, STOPPED)
        at, core, cpu_s = np.array(samples).T
        for own in np.unique(core):
            cpu_s[core == own] /= np.median(cpu_s[core == own])
        moment = ((at - begin) / MOMENT_S).astype(int)
        means = {number: cpu_s[moment == number].mean() for number in range(moments) if number in moment}
        middle = np.median(list(means.values()))
        return np.array([means[number] / middle if number in means else STOPPED for number in range(moments)])


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


PEAK_GAIN = 1.03
"""Twice as many users have to bring this, else the peak has been reached."""
MOST_USERS = 256
PEAK_S, PEAK_WARMUP_S = 1.5, 0.2
"""A closed loop's windows; longer while there are few answers, up to SLOW_PEAK_S."""
SLOW_PEAK_S = 4.0
PROBE_WARMUP_S = 1.0
SHORTEST_PROBE_S = 1.0
LONGEST_PROBE_SHARE = 1 / 12
"""Of the whole time: with fewer probes a slow server's capacity would never be known."""
CONFIRMATIONS = 3
"""Probes at the interval's lower end, at most, until one is steady."""
MOST_VOID = 8
"""Void probes after which the search ends: something on this machine is in the way."""
WAIT_FACTOR, SHORTEST_WAIT_S = 10.0, 2.0
"""A request has missed long before this many times the objective; waiting on would only take time."""


class OutOfTimeError(Exception):
    """The budget is used up."""


@dataclass
class CapacityMeter:
    """Loads a server and searches its capacity.

    Attributes:
        url: of the requests.
        check: raises an exception if the server has died.
        show: called with what is being done, and the seconds used so far.
        cores: those of the server, where it runs on this machine.
    """

    sender: Sender
    url: str
    objective: ObjectiveSettings
    timeout_s: float
    check: Callable[[], None] = lambda: None
    show: Callable[[str, float], None] = lambda text, seconds: None
    cores: CoreSpeeds | None = None
    search: CapacitySearch = field(init=False)
    log: SearchLog = field(default_factory=SearchLog)
    _loads: int = 0
    _started: float = 0.0
    _doing: str = ""

    def __post_init__(self) -> None:
        self.search = CapacitySearch(self.objective.miss, self.objective.tolerance)

    def measure(self) -> CapacityMetrics:
        """Search until the capacity is known to the objective's tolerance, or its ``max_s`` are over.

        Raises:
            LoadError: the load generator failed, or the server refused all requests.
        """
        self._started = monotonic()
        search = self.search
        try:
            if not self._find_peak():
                reason = "a lone user's requests take longer, and so do those of more users"
                return self._metrics("slo_unreachable", reason)
            while not (search.above_range or search.unreachable):
                self._probe(search.next_load())
                for _ in range(CONFIRMATIONS):
                    curve = search.curve()
                    if curve is None or not search.resolved:
                        break
                    held = self._probe(math.exp(curve.interval[0]), "confirm")
                    if search.resolved and search.probes[-1].steady:
                        self.log.confirmed = held
                        return self._metrics("resolved")
                if search.resolved:
                    return self._metrics("resolved")
            status: Status = "above_range" if search.above_range else "slo_unreachable"
            return self._metrics(
                status, f"the objective is {'held' if search.above_range else 'missed'} at all loads"
            )
        except OutOfTimeError as error:
            if search.resolved:
                return self._metrics("resolved")
            unsteady = sum(not probe.steady for probe in search.probes)
            where = f", in {unsteady} of {len(search.probes)} probes the machine was slow for a moment"
            often = mostly_unsteady(unsteady, len(search.probes))
            return self._metrics("unresolved", str(error) + (where if often else ""))

    def _find_peak(self) -> bool:
        """Find the number of users beyond which more bring nothing; whether any kept to the objective."""
        users, best_rps, reachable = 1, 0.0, False
        while True:
            record = self._run_closed_loop(users)
            rate_rps = good_rate_rps(record)
            if users == 1 and rate_rps == 0 and (record.status != TIMED_OUT).any():
                raise LoadError(f"{self.url} answered no request well: {failure_codes(record)}")
            missed = misses(record, self.objective.slo_ms)[record.in_window]
            if len(missed):
                lowest_share, _ = wilson_interval(int(missed.sum()), len(missed))
                reachable = reachable or lowest_share <= self.objective.miss
            if rate_rps == 0 or rate_rps < PEAK_GAIN * best_rps or users >= MOST_USERS:
                self.log.peaks.append(max(best_rps, rate_rps))
                self.log.users = max(1, users // 2 if rate_rps < best_rps else users)
                return reachable
            best_rps, users = max(best_rps, rate_rps), 2 * users

    def _probe(self, load: float, phase: str = "search") -> bool:
        """Probe one load until a probe is not void; return whether it held the objective."""
        for _ in range(MOST_VOID):
            before_rps = self.log.peaks[-1]
            asked_rps = load * before_rps
            self._doing = self._progress_text(asked_rps)
            began = perf_counter()
            record = self._run_open_loop(asked_rps)
            slowest = self._slowest_moment(began)
            due = int(record.in_window.sum())
            if due < BLOCKS:
                raise OutOfTimeError(
                    f"at {asked_rps:.3g} a second only {due} requests were due in a probe; "
                    "that needs a longer objective.max_s"
                )
            after_rps = good_rate_rps(self._run_closed_loop(self.log.users))
            if after_rps == 0:
                raise LoadError(f"{self.url} answers no more")
            self.log.peaks.append(after_rps)
            conditions = Conditions(before_rps, after_rps, slowest)
            probe = self._probe_of(record, math.sqrt(before_rps * after_rps), conditions.steady)
            void = void_reason(record, probe, self.objective, conditions)
            row = ProbeRow.of(record, probe, asked_rps, self.objective.slo_ms, phase, slowest, void)
            self.log.rows.append(row)
            if not void:
                self.search.probes.append(probe)
                if probe.steady:
                    self.log.records.append((probe.load, record))
                return probe.share <= self.objective.miss
        raise OutOfTimeError(f"{MOST_VOID} probes in a row were void: {void}")

    def _probe_of(self, record: LoadRecord, peak_rps: float, steady: bool) -> Probe:
        opened, closed = record.window
        due_first = np.argsort(record.start[record.in_window])
        missed = misses(record, self.objective.slo_ms)[record.in_window][due_first]
        shares = tuple(float(block.mean()) for block in np.array_split(missed, BLOCKS))
        return Probe(len(missed) / (closed - opened), peak_rps, shares, len(missed), steady)

    def _slowest_moment(self, began: float) -> float | None:
        """How many times their median time the cores needed in the slowest moment since ``began``."""
        if self.cores is None:
            return None
        return round(max(self.cores.slowness(began, perf_counter()).tolist(), default=1.0), 3)

    def _run_closed_loop(self, users: int) -> LoadRecord:
        plan = self._plan(users, PEAK_S, PEAK_WARMUP_S)
        return self._run(replace(plan, requests=2 * users, max_s=SLOW_PEAK_S))

    def _run_open_loop(self, rate_rps: float) -> LoadRecord:
        longest_s = LONGEST_PROBE_SHARE * self.objective.max_s
        seconds = min(longest_s, self.objective.probe_requests / rate_rps)
        seconds = max(SHORTEST_PROBE_S, seconds)
        connections = max(MOST_USERS, math.ceil(2 * rate_rps * self.objective.slo_ms / 1000))
        plan = replace(self._plan(connections, seconds, PROBE_WARMUP_S), rate_rps=rate_rps)
        if PROBE_WARMUP_S + seconds + PEAK_WARMUP_S + PEAK_S > self._seconds_left:
            raise self._out_of_time()
        return self._run(plan)

    def _plan(self, users: int, seconds: float, warmup_s: float) -> LoadPlan:
        self._loads += 1
        wait_s = max(SHORTEST_WAIT_S, WAIT_FACTOR * self.objective.slo_ms / 1000)
        return LoadPlan(
            users=users,
            requests=1,
            warmup_s=warmup_s,
            min_s=seconds,
            max_s=seconds,
            max_windows=WINDOWS,
            timeout_s=min(self.timeout_s, wait_s),
            seed=self.objective.seed,
            repeat=self._loads,
        )

    def _run(self, plan: LoadPlan) -> LoadRecord:
        """Run a load; end it when the budget is used up."""

        def on_progress(users: int, answers: int, seconds: float) -> None:
            self.check()
            self.show(self._doing, monotonic() - self._started)
            if self._seconds_left < 0:
                raise self._out_of_time()

        try:
            return self.sender.run(self.url, plan, on_progress=on_progress)
        except LoadError:
            self.check()
            raise

    @property
    def _seconds_left(self) -> float:
        return self._started + self.objective.max_s - monotonic()

    def _out_of_time(self) -> OutOfTimeError:
        return OutOfTimeError(f"the search ended after {self.objective.max_s:g} s (objective.max_s)")

    def _progress_text(self, rate_rps: float) -> str:
        curve = self.search.estimate()
        text = f"probe {len(self.log.rows) + 1} at {rate_rps:.4g}/s"
        if curve is None:
            return text
        low, high = (self.log.peaks[-1] * math.exp(load) for load in curve.interval)
        return f"{text}, capacity between {low:.4g} and {high:.4g}/s"

    def _metrics(self, status: Status, reason: str = "") -> CapacityMetrics:
        seconds = monotonic() - self._started
        return metrics_of(status, reason, self.search, self.log, self.objective, seconds)


def measure_capacity(
    sender: Sender,
    url: str,
    objective: ObjectiveSettings,
    timeout_s: float,
    name: str,
    check: Callable[[], None] = lambda: None,
    cores: CoreSpeeds | None = None,
) -> CapacityResult:
    """Search the capacity of a running server.

    Args:
        url: of the requests.
        timeout_s: of a request, at most.
        name: shown with the progress.
        check: raises an exception if the server has died.
        cores: those of the server, where it runs on this machine.

    Raises:
        LoadError: a sender failed, or the server refuses requests.
    """
    with bar(round(objective.max_s), f"{name}: capacity", "s") as progress:

        def show(text: str, seconds: float) -> None:
            progress.set_postfix_str(text)
            progress.update(round(seconds) - progress.n)

        meter = CapacityMeter(sender, url, objective, timeout_s, check, show, cores)
        metrics = meter.measure()
        curve = meter.search.estimate() if metrics.status in ESTIMATED else None
        return CapacityResult(metrics, meter.log.rows, curve)


def good_rate_rps(record: LoadRecord) -> float:
    """Good answers per second in the window of a closed loop."""
    good = record.status == OK
    return float(block_rates(record.start[good], record.end[good], *record.window).mean())
