"""Whether requests are late when the machine is slow: fixed work on every core, beside a server under load.

The CPU time of always the same work does not grow while it waits for a core; it grows while the core is slow.
So it tells the machine's slow moments from those of the server.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from itertools import cycle, pairwise
from threading import Event, Thread
from time import perf_counter, thread_time

import numpy as np
import numpy.typing as npt

from servebench.params import load_params
from servebench.stats.objective import misses
from servebench.system.machine_lock import exclusive_machine
from studies.harness import Case, load_plan, run_load, write_result

CONFIGURATION = "e7_tuned"
SHARE = 0.85
"""Of the closed loop's peak."""
SECONDS = 240.0
PEAK_S = 5.0
USERS, CONNECTIONS = 8, 256
EVERY_S = 0.005
STEPS = 1500
MOMENT_S, PIECE_S = 0.5, 5.0
"""A piece is as long as a probe of a capacity."""
SLOW = 1.15
"""Times the work's median CPU time, on the mean core."""

Floats = npt.NDArray[np.float64]


@dataclass
class CoreSpeeds:
    """Does the same work every EVERY_S on one core after the other, in a thread."""

    samples: list[tuple[float, int, float]] = field(default_factory=list)
    _ended: Event = field(default_factory=Event)

    def __enter__(self) -> CoreSpeeds:
        self._thread = Thread(target=self._measure)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _measure(self) -> None:
        cores = cycle(os.sched_getaffinity(0))
        while not self._ended.wait(EVERY_S):
            core = next(cores)
            os.sched_setaffinity(0, {core})  # of this thread alone
            began = thread_time()
            sum(range(STEPS))
            self.samples.append((perf_counter(), core, thread_time() - began))

    def slowness(self, edges: Floats) -> Floats:
        """Between each two edges, the work's CPU time over its median; the mean of all cores."""
        at, core, cpu_s = np.array(self.samples).T
        by_core = [
            [cpu_s[(core == own) & (at >= begin) & (at < end)].mean() for own in np.unique(core)]
            for begin, end in pairwise(edges)
        ]
        means: Floats = np.mean(by_core, axis=1)
        return means / np.median(means)


def main() -> None:
    """Load the server, and keep the late requests of pieces with and without a slow moment."""
    params = load_params()
    case = Case(params.configuration(CONFIGURATION), users=(USERS,), seconds=PEAK_S)
    with exclusive_machine(), case.running() as server:
        rate_rps = SHARE * case.load(server, 0)[USERS].throughput_rps
        plan = load_plan(users=CONNECTIONS, seconds=SECONDS, warmup_s=0.0, rate_rps=rate_rps, seed=0)
        with CoreSpeeds() as speeds:
            [record] = run_load(server, case.form, [plan])
    opened, closed = record.window
    edges = np.arange(opened, closed, MOMENT_S)
    slowness = speeds.slowness(edges)
    late = misses(record, params.objective.slo_ms)
    moments = round(PIECE_S / MOMENT_S)
    shares: dict[bool, list[float]] = {True: [], False: []}
    for first in range(0, len(slowness) - moments + 1, moments):
        due = (record.start >= edges[first]) & (record.start < edges[first + moments])
        shares[bool((slowness[first : first + moments] > SLOW).any())].append(float(late[due].mean()))
    result = {
        "configuration": CONFIGURATION,
        "share_of_peak": SHARE,
        "rate_rps": round(rate_rps, 1),
        "seconds": SECONDS,
        "late": round(float(late.mean()), 4),
        "slowness_p95": round(float(np.percentile(slowness, 95)), 3),
        "slowness_max": round(float(slowness.max()), 3),
        "slow": SLOW,
        "pieces_with_slow_moments": len(shares[True]),
        "late_with_slow_moments": round(float(np.mean(shares[True])), 4) if shares[True] else None,
        "pieces_without": len(shares[False]),
        "late_without": round(float(np.mean(shares[False])), 4) if shares[False] else None,
    }
    print(result)
    write_result("slow_moments", result)


if __name__ == "__main__":
    main()
