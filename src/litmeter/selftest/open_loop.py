"""Checks of the open loop: its arrivals, the waits that a known queue causes, and a server that stops.

The stub's service time is constant, so that the due times of the requests determine every wait exactly.
"""

from __future__ import annotations

import heapq
import math
import os
import signal
import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from litmeter.loadgen.generator import OnEdge
from litmeter.selftest.checks import Check
from litmeter.selftest.stub import RunningStub, running_stub
from litmeter.selftest.stub_load import load_stub
from litmeter.stats.records import OK, LoadRecord

Floats = npt.NDArray[np.float64]

CONNECTIONS = 512
QUEUE_TOLERANCE = 0.05
"""Of latencies in a queue: the delay of one request passes on to all that wait behind it."""
TIMER_MS = 2.5
"""Error of latencies that are short: the stub's timer counts whole milliseconds, and rounds
up; then come the scheduler's delay and the client's own path."""
KOLMOGOROV_99 = 1.63
"""Over the root of the number of samples: exceeded by one in a hundred samples of the true distribution."""
STOP_S = 1.0
STOP_TOLERANCE = 0.05
"""Of the waits: the stop takes milliseconds to begin, and so do the requests that have piled up after it."""


@dataclass(frozen=True)
class OpenCase:
    """A stub server and the rate of its Poisson arrivals."""

    service_s: float
    parallel: int
    rate_rps: float
    seconds: float

    @property
    def name(self) -> str:
        """Name of the case in the table."""
        return f"{self.service_s * 1000:g} ms x {self.parallel}, {self.rate_rps:g}/s"


ARRIVALS_CASE = OpenCase(0.001, 8, 400.0, 3.0)
QUEUEING_CASES = (OpenCase(0.02, 1, 35.0, 8.0), OpenCase(0.02, 2, 70.0, 6.0))
"""Queues M/D/1 and M/D/2 at 70% of what the server can do."""
STOP_CASE = OpenCase(0.001, 8, 200.0, 3.0)


def check_arrivals(case: OpenCase = ARRIVALS_CASE) -> list[Check]:
    """Check that the gaps between due times are exponential (Kolmogorov and Smirnov), at the asked rate."""
    with running_stub(case.service_s, case.parallel) as stub:
        due = np.sort(load(stub, case).start)
    gaps, n = np.diff(due), len(due) - 1
    distance = exponential_distance(gaps, case.rate_rps)
    return [
        Check(f"{case.name}: arrivals", case.rate_rps, float(1 / gaps.mean()), "/s", 3 / math.sqrt(n)),
        Check(
            f"{case.name}: distance from Poisson",
            0.0,
            distance,
            "of 1",
            KOLMOGOROV_99 / math.sqrt(n),
            absolute=True,
        ),
    ]


def check_queueing(case: OpenCase) -> list[Check]:
    """Check the latencies against those that the due times cause in a queue of constant service time."""
    with running_stub(case.service_s, case.parallel) as stub:
        record = load(stub, case)
    order = np.argsort(record.start)
    expected_ms = 1000 * waits(record.start[order], case.service_s, case.parallel)
    measured_ms = 1000 * (record.end - record.start)[order]
    inside = (record.in_window & (record.status == OK))[order]
    checks = []
    for percent in (50, 95):
        expected, measured = (float(np.percentile(ms[inside], percent)) for ms in (expected_ms, measured_ms))
        bound = max(QUEUE_TOLERANCE, TIMER_MS / expected)
        checks.append(Check(f"{case.name}: p{percent}, queueing", expected, measured, "ms", bound))
    return checks


def check_stop(case: OpenCase = STOP_CASE) -> list[Check]:
    """Check that a server that stops for a second shows in the latency of all requests due meanwhile."""
    stopped = continued = math.nan
    with running_stub(case.service_s, case.parallel) as stub:

        def on_edge(users: int, index: int) -> None:
            nonlocal stopped, continued
            if index == 1:
                os.kill(stub.pid, signal.SIGSTOP)
                stopped = time.perf_counter()
                time.sleep(STOP_S)
                continued = time.perf_counter()
                os.kill(stub.pid, signal.SIGCONT)

        record = load(stub, case, on_edge)
    due_meanwhile = (record.start > stopped) & (record.start <= continued)
    expected_ms = 1000 * (continued - record.start[due_meanwhile])
    measured_ms = 1000 * (record.end - record.start)[due_meanwhile]
    name = f"{case.name}, stopped for {STOP_S:g} s"
    return [
        Check(f"{name}: longest", _largest(expected_ms), _largest(measured_ms), "ms", STOP_TOLERANCE),
        Check(f"{name}: mean", _mean(expected_ms), _mean(measured_ms), "ms", STOP_TOLERANCE),
    ]


def exponential_distance(gaps: Floats, rate: float) -> float:
    """Largest distance of the gaps' distribution from the exponential one (Kolmogorov and Smirnov)."""
    distribution = 1 - np.exp(-rate * np.sort(gaps))
    steps = np.arange(len(gaps) + 1) / len(gaps)
    return float(max((steps[1:] - distribution).max(), (distribution - steps[:-1]).max()))


def waits(arrived: Floats, service_s: float, parallel: int) -> Floats:
    """Seconds from arrival to departure of each request: first come, first served (Kiefer and Wolfowitz).

    Args:
        arrived: in ascending order.
    """
    free_at = [-math.inf] * parallel
    left = []
    for time_s in arrived:
        left.append(max(time_s, free_at[0]) + service_s)
        heapq.heapreplace(free_at, left[-1])
    return np.array(left) - arrived


def load(stub: RunningStub, case: OpenCase, on_edge: OnEdge = lambda users, index: None) -> LoadRecord:
    """Run the load of one case."""
    return load_stub(stub.url, CONNECTIONS, case.seconds, case.rate_rps, on_edge)


def _largest(values_ms: Floats) -> float | None:
    return float(values_ms.max()) if len(values_ms) else None


def _mean(values_ms: Floats) -> float | None:
    return float(values_ms.mean()) if len(values_ms) else None
