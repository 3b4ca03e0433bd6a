"""Whether a level's figures can be relied on, and what else went on in the machine."""

from __future__ import annotations

import math

from servebench.benchmark.telemetry import Usage
from servebench.stats.rates import Throughput
from servebench.stats.records import OK, TIMED_OUT, LoadRecord
from servebench.stats.stability import WINDOWS, spread, steady, window_means

CLIENT_BUSY_PERCENT = 90.0
"""Of one core: the load generator is a single thread, above this it may be what limits the rate."""
CLIENT_LIMIT_SHARE = 0.8
"""Of what the load generator reaches against a server that answers at once."""
LITTLES_TOLERANCE = 0.05
OTHER_LOAD_PERCENT = 10.0
"""Of the machine's CPU, taken by others or by the hypervisor, that is noted on a point."""
SLOWED_SHARE = 0.1
"""A drop of the CPU's frequency that is noted."""


def invalid_reasons(
    record: LoadRecord, rate: Throughput, mean_ms: float | None, usage: Usage, limit_share: float | None
) -> list[str]:
    """Why the level is not valid; nothing where it is."""
    reasons = []
    bad = int((record.status != OK).sum())
    if bad:
        timed_out = int((record.status == TIMED_OUT).sum())
        reasons.append(f"{bad - timed_out} failed and {timed_out} timed out of {len(record.status)}")
    if mean_ms is None:
        return [*reasons, "no answer within the window"]
    reasons += (
        _closed_loop(record, rate.rps, mean_ms) if record.rate_rps is None else _open_loop(record, rate)
    )
    if usage.client_cores is not None and usage.client_cores * 100 > CLIENT_BUSY_PERCENT:
        reasons.append(f"client-bound: its CPU was {usage.client_cores:.0%} of a core")
    if limit_share is not None and limit_share > CLIENT_LIMIT_SHARE:
        reasons.append(f"client-bound: {limit_share:.0%} of what the client can send")
    return reasons


def _closed_loop(record: LoadRecord, rps: float, mean_ms: float) -> list[str]:
    """Whether the level settled, and all users were busy."""
    reasons = []
    good = record.status == OK
    rates, latencies = window_means(record.start[good], record.end[good], record.window_edges[-WINDOWS - 1 :])
    if len(rates) < WINDOWS or not steady(rates, latencies):
        widest = max(spread(rates), spread(latencies))
        how = f"differ by {widest:.0%} from their mean" if widest < math.inf else "have one without an answer"
        reasons.append(f"unstable: the last {len(rates)} windows {how}")
    at_once = rps * mean_ms / 1000
    if abs(at_once / record.users - 1) > LITTLES_TOLERANCE:
        reasons.append(f"Little's law: rate x latency is {at_once:.2f}, not {record.users} users")
    return reasons


def _open_loop(record: LoadRecord, rate: Throughput) -> list[str]:
    """Whether the server kept up with what came."""
    opened, closed = record.window
    came = float(((record.start > opened) & (record.start <= closed)).sum()) / (closed - opened)
    if rate.high_rps < came:
        return [f"overloaded: {rate.rps:.1f} of {came:.1f} req/s were answered well"]
    return []


def machine_warnings(usage: Usage) -> list[str]:
    """What else went on in the machine."""
    warnings = []
    if usage.other_percent is not None and usage.other_percent > OTHER_LOAD_PERCENT:
        warnings.append(f"other processes used {usage.other_percent:.0f}% of the machine")
    if usage.steal_percent is not None and usage.steal_percent > OTHER_LOAD_PERCENT:
        warnings.append(f"the hypervisor took {usage.steal_percent:.0f}% of the machine")
    if usage.cores and usage.cores[0] != usage.cores[1]:
        warnings.append(f"the number of cores changed between {usage.cores[0]:g} and {usage.cores[1]:g}")
    if usage.mhz and usage.best_mhz and usage.mhz < (1 - SLOWED_SHARE) * usage.best_mhz:
        warnings.append(f"the CPU ran at {usage.mhz:.0f} MHz of {usage.best_mhz:.0f} before")
    if usage.throttled_s:
        warnings.append(f"a CPU quota held processes back for {usage.throttled_s:.1f} s")
    return warnings
