"""``litmeter verify``: load generator and statistics against a server of known speed, and against wrk.

CASES are stub servers with a load each, and what is compared there.
"""

from __future__ import annotations

import heapq
import math
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.stats import expon, kstest

from litmeter.errors import VerifyError
from litmeter.load import LoadPlan, load_generator
from litmeter.load.stub import BODY, running_stub
from litmeter.measure.figures import rate_of
from litmeter.paths import MACHINE, SELFTEST
from litmeter.say.progress import bar
from litmeter.say.tables import text_table
from litmeter.stats.records import OK, WINDOWS, LoadRecord
from litmeter.system.files import read_json, rounded, write_json
from litmeter.system.machine import exclusive_machine
from litmeter.system.processes import process_group
from litmeter.system.temporary import scratch

Floats = npt.NDArray[np.float64]
Compared = tuple[float | None, float | None]
"""What is expected, and what was measured; None where it is not known."""

CONNECTIONS = 512
"""Connections of the open loops."""
GAPS = 1200
"""Between arrivals, at least, where these are checked."""
KOLMOGOROV_99 = 1.63
"""Over the root of the number of samples: exceeded by one in a hundred samples of the true distribution."""
WRK_SCRIPT = """\
function init(arguments)
  wrk.method = "POST"
  wrk.headers["Content-Type"] = "application/json"
  wrk.body = io.open(arguments[1], "rb"):read("*a")
end
"""
WRK_RATE = re.compile(r"Requests/sec:\s+([0-9.]+)")
WRK_FAILURES = re.compile(r"Non-2xx.*|Socket errors.*")


@dataclass(frozen=True)
class Case:
    """A stub server, its load, and what is compared.

    Attributes:
        service_s: how long a request occupies one of the server's ``parallel`` slots.
        seconds: length of the three windows.
        users: of a closed loop; with a rate, connections.
        rate_rps: of Poisson arrivals; None for a closed loop.
        in_step: all slots answer at the same time, as a batch does.
        stop_s: the server is stopped for so long, after the first window.
        wrk_rounds: loads, each followed by one of wrk's on the same server; 0 for one load without wrk.
    """

    service_s: float
    parallel: int
    seconds: float
    quantities: Sequence[Quantity]
    users: int = CONNECTIONS
    rate_rps: float | None = None
    in_step: bool = False
    stop_s: float = 0.0
    wrk_rounds: int = 0

    @property
    def name(self) -> str:
        """Name of the case in the table."""
        at_once = " at once" if self.in_step else ""
        load = f"{self.rate_rps:g}/s" if self.rate_rps else f"{self.users} users"
        stopped = f", stopped for {self.stop_s:g} s" if self.stop_s else ""
        return f"{self.service_s * 1000:g} ms x {self.parallel}{at_once}, {load}{stopped}"


@dataclass(frozen=True)
class Run:
    """What a case gave.

    Attributes:
        record: of its last load.
        log: arrival and departure of each request by the server, in the order of departure, shape (n, 2).
        stopped, continued: when the server was, on the same clock.
        rates, wrk_rates: requests per second of each load, by the load generator and by wrk.
    """

    case: Case
    record: LoadRecord
    log: Floats
    stopped: float = math.nan
    continued: float = math.nan
    rates: Sequence[float] = ()
    wrk_rates: Sequence[float] = ()

    @property
    def gaps(self) -> Floats:
        """Seconds between the due times of requests."""
        return np.diff(np.sort(self.record.start))


class Quantity(NamedTuple):
    """What is compared in a case.

    Attributes:
        of: what is expected, and what was measured, in ``unit``.
        share, at_least: the error may be this share of what is expected, or this much where that is more,
            for this ``reason``.
    """

    name: str
    unit: str
    of: Callable[[Run], Compared]
    reason: str
    share: float = 0.0
    at_least: float = 0.0


class Check(NamedTuple):
    """One comparison, as metrics/verify.json holds it.

    Error and bound are shares of what is expected; in ``unit`` where that is 0. Unknown errors do not pass.
    """

    name: str
    expected: float | None
    measured: float | None
    unit: str
    error: float | None
    bound: float
    passed: bool
    reason: str


def latency(
    name: str, summary: Callable[[Floats], Any], expected_ms: Callable[[Run], Floats], *tolerance: Any
) -> Quantity:
    """A summary of latencies, over the same requests on both sides, so without an error of sampling.

    ``expected_ms`` has a latency for each request of the record, NaN for those that are not compared.
    """

    def compare(run: Run) -> Compared:
        expected = expected_ms(run)
        which = ~np.isnan(expected)
        if not which.any():
            return None, None
        measured_ms = 1000 * (run.record.end - run.record.start)
        return float(summary(expected[which])), float(summary(measured_ms[which]))

    return Quantity(name, "ms", compare, *tolerance)


def by_log_ms(run: Run) -> Floats:
    """Latencies by the server's log, which has the same order; none where it has more or fewer requests."""
    if len(run.log) != len(run.record.status):
        return np.array([math.nan])
    return only_good(run, 1000 * (run.log[:, 1] - run.log[:, 0]))


def of_queue_ms(run: Run) -> Floats:
    """Latencies that the due times cause in a queue of constant service time."""
    order = np.argsort(run.record.start)
    waits_ms = np.empty(len(order))
    waits_ms[order] = 1000 * waits(run.record.start[order], run.case.service_s, run.case.parallel)
    return only_good(run, waits_ms)


def of_stop_ms(run: Run) -> Floats:
    """Latencies of requests that were due while the server was stopped: until it went on."""
    due_meanwhile = (run.record.start > run.stopped) & (run.record.start <= run.continued)
    return np.where(due_meanwhile, 1000 * (run.continued - run.record.start), math.nan)


def only_good(run: Run, latency_ms: Floats) -> Floats:
    """Latencies of the requests of the windows that were answered well, NaN for others."""
    return np.where(run.record.in_window & (run.record.status == OK), latency_ms, math.nan)


def waits(arrived: Floats, service_s: float, parallel: int) -> Floats:
    """Seconds from arrivals, ascending, to departure: first come, first served (Kiefer and Wolfowitz)."""
    free_at = [-math.inf] * parallel
    left = []
    for time_s in arrived:
        left.append(max(time_s, free_at[0]) + service_s)
        heapq.heapreplace(free_at, left[-1])
    return np.array(left) - arrived


def exponential_distance(gaps: Floats, rate: float) -> float:
    """Largest distance of the gaps' distribution from the exponential one (Kolmogorov and Smirnov)."""
    return float(kstest(gaps, expon(scale=1 / rate).cdf).statistic)


def busy_rates(run: Run) -> Compared:
    """Requests per second of a server that never idles."""
    return run.case.parallel / run.case.service_s, run.rates[-1]


def arrival_rates(run: Run) -> Compared:
    """Arrivals per second."""
    return run.case.rate_rps, float(1 / run.gaps.mean())


def distances(run: Run) -> Compared:
    """Distance of the arrivals from a Poisson process."""
    return 0.0, exponential_distance(run.gaps, run.case.rate_rps or math.nan)


def wrk_rates(run: Run) -> Compared:
    """Medians of the rates, as machines drift."""
    return median(run.wrk_rates), median(run.rates)


p50, p95, p99 = (partial(np.percentile, q=percent) for percent in (50, 95, 99))
OWN_PATH = "a client's latency includes its own path through kernel and event loop"
SCHEDULER = f"{OWN_PATH}, and the scheduler's delays"
TIMER = "the stub's timer counts whole milliseconds, and a delay passes on to all that wait behind it"
SLOW_STOP = "a stop takes milliseconds to begin, and so do the requests that have piled up after it"
BY_CHANCE = "exceeded by one in a hundred samples of the true distribution"
LATE_TIMERS = "the server never idles, but its timers are late by up to a millisecond"
CLIENTS_TIME = "it depends on the time that a client takes between two requests; medians, as machines drift"

CLOSED = (
    Quantity("requests", "requests", lambda run: (len(run.log), len(run.record.end)), "none is lost"),
    latency("p50, server's log", p50, by_log_ms, OWN_PATH, 0.03, 0.5),
    latency("p99, server's log", p99, by_log_ms, SCHEDULER, 0.03, 2.0),
)
BUSY = (*CLOSED, Quantity("rate, queueing", "req/s", busy_rates, LATE_TIMERS, 0.03))
POISSON = (
    Quantity("arrivals", "/s", arrival_rates, "three standard errors of the mean gap", 3 / math.sqrt(GAPS)),
    Quantity("distance from Poisson", "of 1", distances, BY_CHANCE, 0.0, KOLMOGOROV_99 / math.sqrt(GAPS)),
)
QUEUE = (
    latency("p50, queueing", p50, of_queue_ms, TIMER, 0.05, 2.5),
    latency("p95, queueing", p95, of_queue_ms, TIMER, 0.05, 2.5),
)
STOP = (
    latency("longest", np.max, of_stop_ms, SLOW_STOP, 0.05),
    latency("mean", np.mean, of_stop_ms, SLOW_STOP, 0.05),
)
WRK = (Quantity("rate, wrk", "req/s", wrk_rates, CLIENTS_TIME, 0.05),)
CASES = (
    # Twice as many users as slots: some request always waits, and the server never idles.
    Case(0.005, 1, 2.0, CLOSED, users=2),
    Case(0.005, 4, 2.0, CLOSED, users=8),
    Case(0.02, 1, 3.0, CLOSED, users=2),
    Case(0.02, 4, 3.0, CLOSED, users=8),
    Case(0.1, 1, 5.0, BUSY, users=2),
    Case(0.1, 4, 5.0, BUSY, users=8),
    # As a server with batches, whose answers the client must read one after another.
    Case(0.1, 16, 3.0, BUSY, users=32, in_step=True),
    Case(0.001, 8, 3.0, POISSON, rate_rps=400.0),
    # Queues M/D/1 and M/D/2 at 70% of what the server can do.
    Case(0.02, 1, 8.0, QUEUE, rate_rps=35.0),
    Case(0.02, 2, 6.0, QUEUE, rate_rps=70.0),
    Case(0.001, 8, 3.0, STOP, rate_rps=200.0, stop_s=1.0),
    # A slot for every user.
    Case(0.02, 4, 2.0, WRK, users=4, wrk_rounds=3),
)


def main(cases: Sequence[Case] = CASES) -> int:
    """Run all cases, print and write what they gave; 0 where all checks have passed, else 1.

    Raise VerifyError where wrk is missing or failed, once the other checks are printed and written.
    """
    failure: VerifyError | None = None
    checks: list[Check] = []
    with exclusive_machine(), bar(len(cases), "verify", "case") as progress:
        for case in cases:
            progress.set_postfix_str(case.name)
            run = None
            try:
                run = run_case(case)
            except VerifyError as error:
                failure = error
            checks += [check(case, quantity, run) for quantity in case.quantities]
            progress.update()
    rows = [
        [
            one.name,
            *("-" if x is None else f"{round(x, 2):.8g} {one.unit}" for x in (one.expected, one.measured)),
            "-" if one.error is None else f"{one.error:+.1%}",
            f"{one.bound:.1%}",
            "passed" if one.passed else "FAILED",
        ]
        for one in checks
    ]
    print(text_table(["check", "expected", "measured", "error", "bound", "verdict"], rows))
    machine = read_json(MACHINE)["id"] if MACHINE.exists() else None
    passed = all(one.passed for one in checks)
    write_json(SELFTEST, {"machine": machine, "checks": [one._asdict() for one in checks], "passed": passed})
    if failure is not None:
        raise failure
    return 0 if passed else 1


def run_case(case: Case) -> Run:
    """Load the stub server of a case; raise VerifyError if wrk is missing or fails."""
    plan = LoadPlan(
        users=case.users,
        requests=1,
        warmup_s=0.3,
        min_s=case.seconds,
        max_s=case.seconds,
        max_windows=WINDOWS,
        timeout_s=10.0,
        seed=0,
        rate_rps=case.rate_rps,
    )
    stopped = continued = math.nan
    rates, wrk_rates = [], []
    with (
        running_stub(case.service_s, case.parallel, in_step=case.in_step) as stub,
        load_generator([BODY], "application/json") as generator,
    ):

        def on_progress(seconds: float) -> None:
            nonlocal stopped, continued
            if case.stop_s and math.isnan(stopped) and seconds >= case.seconds / WINDOWS:
                os.kill(stub.pid, signal.SIGSTOP)
                stopped = time.perf_counter()
                time.sleep(case.stop_s)
                continued = time.perf_counter()
                os.kill(stub.pid, signal.SIGCONT)

        for number in range(max(1, case.wrk_rounds)):
            record = generator.run(stub.url, plan, on_progress=on_progress)
            rates.append(rate_of(record).rps)
            if number < case.wrk_rounds:
                wrk_rates.append(rate_by_wrk(stub.url, BODY, case.users, round(case.seconds)))
        return Run(case, record, stub.log(), stopped, continued, rates, wrk_rates)


def check(case: Case, quantity: Quantity, run: Run | None) -> Check:
    """Compare a quantity; it has not passed where the case could not be run."""
    expected, measured = quantity.of(run) if run else (None, None)
    error = None
    if expected is not None and measured is not None:
        error = round(measured / expected - 1 if expected else measured, 5)
    bound = round(max(quantity.share, quantity.at_least / (expected or 1.0)), 5)
    passed = error is not None and abs(error) <= bound
    name, figures = f"{case.name}: {quantity.name}", (rounded(expected, 3), rounded(measured, 3))
    return Check(name, *figures, quantity.unit, error, bound, passed, quantity.reason)


def rate_by_wrk(url: str, body: bytes, users: int, seconds: int) -> float:
    """Requests per second that wrk measures: ``users`` connections, each a closed loop of POSTs.

    Raise VerifyError where wrk is not installed, or it failed, or one of its requests did.
    """
    if (wrk := shutil.which("wrk")) is None:
        install = "`apt-get install wrk` (Debian, Ubuntu) installs it"
        raise VerifyError(f"there is no wrk to compare with; {install}")
    with scratch() as folder:
        (body_file := folder / "body").write_bytes(body)
        (script := folder / "post.lua").write_text(WRK_SCRIPT, encoding="utf-8")
        load = ["-t1", f"-c{users}", f"-d{seconds}s", "-s", str(script), url, "--", str(body_file)]
        with process_group([wrk, *load], stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
            output = process.communicate()[0].decode(errors="replace")
    rate, failures = WRK_RATE.search(output), WRK_FAILURES.search(output)
    if process.returncode != 0 or rate is None:
        raise VerifyError(f"wrk failed (exit status {process.returncode}): {' '.join(output.split())[-200:]}")
    if failures is not None:
        raise VerifyError(f"wrk had requests that failed: {failures[0].strip()}")
    return float(rate[1])
