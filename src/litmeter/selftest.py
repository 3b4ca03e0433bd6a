"""``litmeter verify``: load generator and statistics against a server of known speed, and against wrk.

CASES are stub servers, each with a load and the quantities that are compared.
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
from dataclasses import asdict, dataclass
from functools import partial
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.stats import expon, kstest

from litmeter.errors import VerifyError
from litmeter.load import LoadPlan, load_generator
from litmeter.load.stub import BODY, Stub, running_stub
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
Flags = npt.NDArray[np.bool_]
Compared = tuple[float | None, float | None]
"""Expected and measured value; None: unknown."""
Pairs = tuple[Floats, Floats]
"""Expected and measured times of the same requests, seconds."""
NOTHING: Pairs = (np.empty(0), np.empty(0))

CONNECTIONS = 512
"""Connections of the open loops."""
GAPS = 1200
"""Fewest gaps between arrivals in the check of their distribution."""
KOLMOGOROV_99 = 1.63
"""Over the root of the number of samples: one in a hundred samples of the true distribution exceeds it."""
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
    """A stub server, its load, and the compared quantities.

    Attributes:
        seconds: length of the three windows.
        users: of a closed loop; of an open loop, connections.
        rate_rps: rate of Poisson arrivals; None: a closed loop.
        stop_s: how long the server is stopped after the first window.
        wrk_rounds: number of loads, each followed by a load of wrk; 0: a single load without wrk.
    """

    stub: Stub
    seconds: float
    quantities: Sequence[Quantity]
    users: int = CONNECTIONS
    rate_rps: float | None = None
    stop_s: float = 0.0
    wrk_rounds: int = 0

    @property
    def name(self) -> str:
        """The case in the table of checks."""
        stub = self.stub
        at_once = " at once" if stub.in_step else ""
        load = f"{self.rate_rps:g}/s" if self.rate_rps else f"{self.users} users"
        stopped = f", stopped for {self.stop_s:g} s" if self.stop_s else ""
        pieces = f", {stub.pieces} pieces of {stub.piece_bytes} B" if stub.pieces else ""
        return f"{stub.service_s * 1000:g} ms x {stub.parallel}{at_once}, {load}{stopped}{pieces}"


@dataclass(frozen=True)
class Run:
    """Results of a case.

    Attributes:
        record: of the last load.
        log: of the server, see ``RunningStub.log``.
        stopped, continued: when the server was stopped and continued, on the same clock.
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
        """Seconds between successive due times."""
        return np.diff(np.sort(self.record.start))

    @property
    def latency_s(self) -> Floats:
        """Latency of each request of the record."""
        return self.record.end - self.record.start

    @property
    def good(self) -> Flags:
        """Which requests belong to the windows, and were answered well."""
        good: Flags = self.record.in_window & (self.record.status == OK)
        return good


class Quantity(NamedTuple):
    """A compared quantity.

    Attributes:
        of: the expected and the measured value, in ``unit``.
        share, at_least: largest error: this share of the expected value, or ``at_least`` if that is more.
    """

    name: str
    unit: str
    of: Callable[[Run], Compared]
    share: float = 0.0
    at_least: float = 0.0


class Check(NamedTuple):
    """One comparison in metrics/verify.json.

    Error and bound are relative to the expected value; in ``unit`` if that is 0. Unknown errors do not pass.
    """

    name: str
    expected: float | None
    measured: float | None
    unit: str
    error: float | None
    bound: float
    passed: bool


def times(
    name: str, summary: Callable[[Floats], Any], pairs: Callable[[Run], Pairs], *tolerance: float
) -> Quantity:
    """A summary of times of the same requests on both sides, so without a sampling error."""

    def compare(run: Run) -> Compared:
        expected_s, measured_s = pairs(run)
        if not len(expected_s):
            return None, None
        return float(summary(1000 * expected_s)), float(summary(1000 * measured_s))

    return Quantity(name, "ms", compare, *tolerance)


def logged(run: Run) -> tuple[Flags, Floats]:
    """The good requests, and their rows of the server's log; none if the numbers of requests differ."""
    if len(run.log) != len(run.good):
        return np.zeros_like(run.good), run.log[:0]
    return run.good, run.log[run.good]


def of_log(run: Run) -> Pairs:
    """Latencies by the server's log."""
    chosen, log = logged(run)
    return log[:, 1] - log[:, 0], run.latency_s[chosen]


def of_first_pieces(run: Run) -> Pairs:
    """Times to the first piece, by the server's log."""
    chosen, log = logged(run)
    streams = run.record.streams
    return NOTHING if streams is None else (log[:, 2] - log[:, 0], streams.first_s[chosen])


def of_gaps(run: Run) -> Pairs:
    """Times between successive pieces, by the server's log."""
    chosen, log = logged(run)
    streams = run.record.streams
    return NOTHING if streams is None else (np.diff(log[:, 2:]).ravel(), streams.gaps_s(chosen))


def of_queue(run: Run) -> Pairs:
    """Latencies of the due times in a queue of constant service time."""
    order = np.argsort(run.record.start)
    waits_s = np.empty(len(order))
    waits_s[order] = waits(run.record.start[order], run.case.stub.service_s, run.case.stub.parallel)
    return waits_s[run.good], run.latency_s[run.good]


def of_stop(run: Run) -> Pairs:
    """Latencies of requests that were due while the server was stopped: until it continued."""
    due = run.record.start
    meanwhile = (due > run.stopped) & (due <= run.continued)
    return run.continued - due[meanwhile], run.latency_s[meanwhile]


def waits(arrived: Floats, service_s: float, parallel: int) -> Floats:
    """Seconds from ascending arrivals to departures: first come, first served (Kiefer and Wolfowitz)."""
    free_at = [-math.inf] * parallel
    left = []
    for time_s in arrived:
        left.append(max(time_s, free_at[0]) + service_s)
        heapq.heapreplace(free_at, left[-1])
    return np.array(left) - arrived


def exponential_distance(gaps: Floats, rate: float) -> float:
    """Largest distance of the gaps' distribution from the exponential distribution (Kolmogorov-Smirnov)."""
    return float(kstest(gaps, expon(scale=1 / rate).cdf).statistic)


def busy_rates(run: Run) -> Compared:
    """Requests per second of a server that never idles."""
    return run.case.stub.parallel / run.case.stub.service_s, run.rates[-1]


def distances(run: Run) -> Compared:
    """Distance of the arrivals from a Poisson process."""
    return 0.0, exponential_distance(run.gaps, run.case.rate_rps or math.nan)


def pieces(run: Run) -> Compared:
    """Pieces of all answers."""
    streams = run.record.streams
    return len(run.log) * run.case.stub.pieces, None if streams is None else int(streams.count.sum())


p50, p95, p99 = (partial(np.percentile, q=percent) for percent in (50, 95, 99))
CLOSED = (
    Quantity("requests", "requests", lambda run: (len(run.log), len(run.record.end))),
    # Latency at the client includes the path through kernel and event loop; p99, also the scheduler's delays.
    times("p50, server's log", p50, of_log, 0.03, 0.5),
    times("p99, server's log", p99, of_log, 0.03, 2.0),
)
# The server never idles, but its timers are late by up to a millisecond.
BUSY = (*CLOSED, Quantity("rate, queueing", "req/s", busy_rates, 0.03))
POISSON = (
    # Three standard errors of the mean gap.
    Quantity("arrivals", "/s", lambda run: (run.case.rate_rps, 1 / run.gaps.mean()), 3 / math.sqrt(GAPS)),
    Quantity("distance from Poisson", "of 1", distances, 0.0, KOLMOGOROV_99 / math.sqrt(GAPS)),
)
QUEUE = (  # the stub's timer counts whole milliseconds, and each delay delays all requests behind it
    times("p50, queueing", p50, of_queue, 0.05, 2.5),
    times("p95, queueing", p95, of_queue, 0.05, 2.5),
)
STOP = (  # stopping, and serving the requests that have piled up, take milliseconds
    times("longest", np.max, of_stop, 0.05),
    times("mean", np.mean, of_stop, 0.05),
)
STREAM = (
    Quantity("pieces", "pieces", pieces),
    times("TTFT p50, server's log", p50, of_first_pieces, 0.02, 0.5),
    times("TTFT mean, server's log", np.mean, of_first_pieces, 0.02, 0.5),
    times("TTFT p99, server's log", p99, of_first_pieces, 0.02, 2.0),
    times("gap p50, server's log", p50, of_gaps, 0.02, 0.5),
    times("gap mean, server's log", np.mean, of_gaps, 0.02, 0.5),
    times("gap p99, server's log", p99, of_gaps, 0.02, 2.0),
)
# Medians, because machines drift; clients differ in their time between two requests.
WRK = (Quantity("rate, wrk", "req/s", lambda run: (median(run.wrk_rates), median(run.rates)), 0.05),)
CASES = (
    # Twice as many users as slots: some request always waits, and the server never idles.
    Case(Stub(0.005, 1), 2.0, CLOSED, users=2),
    Case(Stub(0.005, 4), 2.0, CLOSED, users=8),
    Case(Stub(0.02, 1), 3.0, CLOSED, users=2),
    Case(Stub(0.02, 4), 3.0, CLOSED, users=8),
    Case(Stub(0.1, 1), 5.0, BUSY, users=2),
    Case(Stub(0.1, 4), 5.0, BUSY, users=8),
    # Like a server with batches: the client must read the answers one after another.
    Case(Stub(0.1, 16, in_step=True), 3.0, BUSY, users=32),
    Case(Stub(0.001, 8), 3.0, POISSON, rate_rps=400.0),
    # Queues M/D/1 and M/D/2 at 70% load.
    Case(Stub(0.02, 1), 8.0, QUEUE, rate_rps=35.0),
    Case(Stub(0.02, 2), 6.0, QUEUE, rate_rps=70.0),
    Case(Stub(0.001, 8), 3.0, STOP, rate_rps=200.0, stop_s=1.0),
    # A slot for every user.
    Case(Stub(0.05, 1, pieces=30, piece_s=0.01, piece_bytes=1), 2.0, STREAM, users=1),
    Case(Stub(0.05, 16, pieces=30, piece_s=0.01, piece_bytes=4096), 2.0, STREAM, users=16),
    Case(Stub(0.05, 64, pieces=30, piece_s=0.01), 2.0, STREAM, users=64),
    Case(Stub(0.02, 4), 2.0, WRK, users=4, wrk_rounds=3),
)


def main(cases: Sequence[Case] = CASES) -> int:
    """Run all cases, print and write the checks; return 0 if all have passed, else 1.

    If wrk is missing or fails, raise VerifyError after the other checks are printed and written.
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
            name,
            *("-" if value is None else f"{round(value, 2):.8g} {unit}" for value in (expected, measured)),
            "-" if error is None else f"{error:+.1%}",
            f"{bound:.1%}",
            "passed" if passed else "FAILED",
        ]
        for name, expected, measured, unit, error, bound, passed in checks
    ]
    print(text_table(["check", "expected", "measured", "error", "bound", "verdict"], rows))
    machine = read_json(MACHINE)["id"] if MACHINE.exists() else None
    passed = all(result.passed for result in checks)
    written = [result._asdict() for result in checks]
    write_json(SELFTEST, {"machine": machine, "checks": written, "passed": passed})
    if failure is not None:
        raise failure
    return 0 if passed else 1


def run_case(case: Case) -> Run:
    """Load a case's stub server; raise VerifyError if wrk is missing or fails."""
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
        running_stub(**asdict(case.stub)) as stub,
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
    """Compare a quantity; without a run it has not passed."""
    expected, measured = quantity.of(run) if run else (None, None)
    error = None
    if expected is not None and measured is not None:
        error = round(measured / expected - 1 if expected else measured, 5)
    bound = round(max(quantity.share, quantity.at_least / (expected or 1.0)), 5)
    passed = error is not None and abs(error) <= bound
    name, figures = f"{case.name}: {quantity.name}", (rounded(expected, 3), rounded(measured, 3))
    return Check(name, *figures, quantity.unit, error, bound, passed)


def rate_by_wrk(url: str, body: bytes, users: int, seconds: int) -> float:
    """Requests per second by wrk: ``users`` connections, each a closed loop of POST requests.

    Raise VerifyError if wrk is not installed, or if it or any request failed.
    """
    if (wrk := shutil.which("wrk")) is None:
        raise VerifyError("there is no wrk to compare with; on Debian or Ubuntu, `apt-get install wrk`")
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
