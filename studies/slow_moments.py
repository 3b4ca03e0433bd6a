"""Whether requests are late when the machine is slow: fixed work on every core, beside a server under load.

``CoreSpeeds`` tells the machine's slow moments from those of the server. A piece is as long as a probe.
"""

from __future__ import annotations

import numpy as np

from litmeter.benchmark.capacity import MOMENT_S, SLOW, CoreSpeeds
from litmeter.params import load_params
from litmeter.stats.records import misses
from litmeter.system.machine import exclusive_machine
from studies.harness import Case, load_plan, run_load, write_result

CONFIGURATION = "e7_tuned"
SHARE = 0.85
"""Of the closed loop's peak."""
SECONDS = 240.0
PEAK_S = 5.0
USERS, CONNECTIONS = 8, 256
PIECE_S = 5.0


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
    slowness = speeds.slowness(opened, closed)
    edges = opened + MOMENT_S * np.arange(len(slowness) + 1)
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
