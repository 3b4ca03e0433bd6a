"""Whether a level's figures can be relied on, and what else went on in the machine."""

from __future__ import annotations

import math

from servebench.load import Level
from servebench.load.generator import OK, TIMED_OUT
from servebench.measure.rates import Throughput
from servebench.measure.steady import WINDOWS, spread, steady, window_means
from servebench.measure.telemetry import Usage

CLIENT_BUSY_PERCENT = 90.0
"""Of one core: the load generator is a single thread, above this it may be what limits the rate."""
CLIENT_CEILING_SHARE = 0.8
"""Of what the load generator reaches against a server that answers at once."""
LITTLES_TOLERANCE = 0.05
OTHER_LOAD_PERCENT = 10.0
"""Of the machine's CPU, taken by others or by the hypervisor, that is noted on a point."""
SLOWED_SHARE = 0.1
"""A drop of the CPU's frequency that is noted."""


def reasons(
    level: Level, rate: Throughput, mean_ms: float | None, usage: Usage, client_share: float | None
) -> list[str]:
    """Why the level is not valid; nothing where it is."""
    why = []
    bad = int((level.status != OK).sum())
    if bad:
        timed_out = int((level.status == TIMED_OUT).sum())
        why.append(f"{bad - timed_out} failed and {timed_out} timed out of {len(level.status)}")
    if mean_ms is None:
        return [*why, "no answer within the window"]
    why += _closed_loop(level, rate.rps, mean_ms) if level.rate_rps is None else _open_loop(level, rate)
    if usage.client_cores is not None and usage.client_cores * 100 > CLIENT_BUSY_PERCENT:
        why.append(f"client-bound: its CPU was {usage.client_cores:.0%} of a core")
    if client_share is not None and client_share > CLIENT_CEILING_SHARE:
        why.append(f"client-bound: {client_share:.0%} of what the client can send")
    return why


def _closed_loop(level: Level, rps: float, mean_ms: float) -> list[str]:
    """Whether the level settled, and all users were busy."""
    why = []
    good = level.status == OK
    rates, latencies = window_means(level.start[good], level.end[good], level.edges[-WINDOWS - 1 :])
    if len(rates) < WINDOWS or not steady(rates, latencies):
        widest = max(spread(rates), spread(latencies))
        how = f"differ by {widest:.0%} from their mean" if widest < math.inf else "have one without an answer"
        why.append(f"unstable: the last {len(rates)} windows {how}")
    at_once = rps * mean_ms / 1000
    if abs(at_once / level.users - 1) > LITTLES_TOLERANCE:
        why.append(f"Little's law: rate x latency is {at_once:.2f}, not {level.users} users")
    return why


def _open_loop(level: Level, rate: Throughput) -> list[str]:
    """Whether the server kept up with what came."""
    opened, closed = level.window
    came = float(((level.start > opened) & (level.start <= closed)).sum()) / (closed - opened)
    if rate.high_rps < came:
        return [f"overloaded: {rate.rps:.1f} of {came:.1f} req/s were answered well"]
    return []


def notes(usage: Usage) -> list[str]:
    """What else went on in the machine."""
    noted = []
    if usage.other_percent is not None and usage.other_percent > OTHER_LOAD_PERCENT:
        noted.append(f"other processes used {usage.other_percent:.0f}% of the machine")
    if usage.steal_percent is not None and usage.steal_percent > OTHER_LOAD_PERCENT:
        noted.append(f"the hypervisor took {usage.steal_percent:.0f}% of the machine")
    if usage.cores and usage.cores[0] != usage.cores[1]:
        noted.append(f"the number of cores changed between {usage.cores[0]:g} and {usage.cores[1]:g}")
    if usage.mhz and usage.best_mhz and usage.mhz < (1 - SLOWED_SHARE) * usage.best_mhz:
        noted.append(f"the CPU ran at {usage.mhz:.0f} MHz of {usage.best_mhz:.0f} before")
    if usage.throttled_s:
        noted.append(f"a CPU quota held processes back for {usage.throttled_s:.1f} s")
    return noted
