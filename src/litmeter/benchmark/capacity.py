"""Capacity of a running server: probes of random arrivals, from the closed loop's peak down to the objective.

Beside every probe the peak is measured again, so that a machine that changes its speed changes both. A probe
that is void is repeated.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from time import monotonic, perf_counter

import numpy as np

from litmeter.benchmark.capacity_rows import (
    ESTIMATED,
    CapacityMetrics,
    CapacityResult,
    ProbeRow,
    SearchLog,
    Status,
    metrics_of,
)
from litmeter.benchmark.probe_validity import Conditions, void_reason
from litmeter.benchmark.slow_moments import CoreSpeeds
from litmeter.benchmark.validity import failure_codes
from litmeter.errors import LoadError
from litmeter.loadgen import LoadPlan
from litmeter.loadgen.senders import Sender
from litmeter.params import ObjectiveSettings
from litmeter.stats.capacity import BLOCKS, CapacitySearch, Probe, mostly_unsteady
from litmeter.stats.intervals import wilson_interval
from litmeter.stats.objective import misses
from litmeter.stats.records import OK, TIMED_OUT, LoadRecord
from litmeter.stats.stability import WINDOWS
from litmeter.stats.windows import block_rates
from litmeter.system.progress import bar

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
