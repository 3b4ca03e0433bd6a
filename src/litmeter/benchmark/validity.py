"""Validity of a level's figures, and warnings of what else the machine did."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
from scipy.special import stdtrit

from litmeter.benchmark.telemetry import Usage
from litmeter.stats.rates import Throughput
from litmeter.stats.records import FAILED, OK, TIMED_OUT, LoadRecord
from litmeter.stats.stability import WINDOWS, fewest_answers, spread, steady, window_means
from litmeter.system.tables import pluralise

CLIENT_BUSY_PERCENT = 90.0
"""Of one core: the load generator is a single thread, and may limit the rate above this."""
CLIENT_LIMIT_SHARE = 0.8
"""Of the load generator's rate against a server that answers at once."""
LITTLES_TOLERANCE = 0.05
OTHER_LOAD_PERCENT = 10.0
"""CPU of the machine, used by other processes or by the hypervisor, above which there is a warning."""
SLOWDOWN_SHARE = 0.1
"""Drop of the CPU's frequency above which there is a warning."""

GROWTH_BLOCKS, GROWTH_CERTAINTY = 15, 0.975
"""Parts of an open loop's windows, of which the last third's latencies are compared with the first's. At
70% load 4% of the loads or fewer seem to grow, whether they have 200 requests or 3,000; simulated."""


def invalid_reasons(
    record: LoadRecord, rate: Throughput, mean_ms: float | None, usage: Usage, limit_share: float | None
) -> list[str]:
    """Why the level is not valid; empty where it is."""
    reasons = []
    bad = int((record.status != OK).sum())
    if bad:
        timed_out = int((record.status == TIMED_OUT).sum())
        codes = failure_codes(record)
        by_code = f" ({codes})" if codes else ""
        reasons.append(f"{bad - timed_out} failed and {timed_out} timed out of {len(record.status)}{by_code}")
    if mean_ms is None:
        return [*reasons, "no answer within the window"]
    if record.rate_rps is None:
        reasons += _closed_loop_reasons(record, rate.rps, mean_ms)
    else:
        reasons += _open_loop_reasons(record, rate)
    if usage.client_cores is not None and usage.client_cores * 100 > CLIENT_BUSY_PERCENT:
        reasons.append(f"client-bound: its CPU was {usage.client_cores:.0%} of a core")
    if limit_share is not None and limit_share > CLIENT_LIMIT_SHARE:
        reasons.append(f"client-bound: {limit_share:.0%} of what the client can send")
    return reasons


def failure_codes(record: LoadRecord) -> str:
    """How many requests failed with which status, as "status 503: 12, no answer: 1"; most frequent first."""
    codes = Counter(int(code) for code in record.code[record.status == FAILED])
    return ", ".join(
        f"{f'status {code}' if code else 'no answer'}: {count}" for code, count in codes.most_common()
    )


def _closed_loop_reasons(record: LoadRecord, rps: float, mean_ms: float) -> list[str]:
    """A closed loop is valid if its last windows agree, and all users were busy (Little's law)."""
    reasons = []
    good = record.status == OK
    edges = record.window_edges[-WINDOWS - 1 :]
    if len(edges) <= WINDOWS:
        return ["too slow: the users waited too long for their first answers, and sent no more"]
    rates, latencies = window_means(record.start[good], record.end[good], edges)
    if not steady(rates, latencies, fewest_answers(record.end[good], edges)):
        widest = max(spread(rates), spread(latencies))
        spreads = f"differ by {widest:.0%} from their mean"
        finding = spreads if widest < math.inf else "have one without an answer"
        reasons.append(f"unstable: the last {WINDOWS} windows {finding}")
    in_flight = rps * mean_ms / 1000
    if abs(in_flight / record.users - 1) > LITTLES_TOLERANCE:
        users = pluralise(record.users, "user")
        reasons.append(f"Little's law: rate x latency is {in_flight:.2f}, not {users}")
    return reasons


def _open_loop_reasons(record: LoadRecord, rate: Throughput) -> list[str]:
    """An open loop is valid if the server kept up with the arrivals."""
    opened, closed = record.window
    arrivals_rps = float(((record.start > opened) & (record.start <= closed)).sum()) / (closed - opened)
    if rate.high_rps < arrivals_rps:
        return [f"overloaded: {rate.rps:.1f} of {arrivals_rps:.1f} req/s were answered well"]
    return []


def latency_grows(record: LoadRecord) -> bool:
    """Whether an open loop's requests take longer and longer, and more of them wait at the end.

    The mean latency of the last third of the windows lies above that of the first by more than the means
    of their parts vary (Student's t), and more requests are in flight when the windows close than when they
    opened. A server at its limit shows it long before it answers noticeably fewer requests than arrive.
    """
    opened, closed = record.window
    inside = (record.status == OK) & record.in_window
    part = ((record.start[inside] - opened) / (closed - opened) * GROWTH_BLOCKS).astype(int)
    part = np.minimum(part, GROWTH_BLOCKS - 1)
    counts = np.bincount(part, minlength=GROWTH_BLOCKS)
    if not counts.all():
        return False
    latencies = (record.end - record.start)[inside]
    means = np.bincount(part, latencies, GROWTH_BLOCKS) / counts
    third = GROWTH_BLOCKS // 3
    first, last = means[:third], means[-third:]
    error = math.sqrt((first.var(ddof=1) + last.var(ddof=1)) / third)
    beyond = last.mean() - first.mean() > float(stdtrit(2 * third - 2, GROWTH_CERTAINTY)) * error
    return bool(beyond) and _in_flight(record, closed) > _in_flight(record, opened)


def _in_flight(record: LoadRecord, time: float) -> int:
    return int(((record.start <= time) & (record.end > time)).sum())


def machine_warnings(usage: Usage) -> list[str]:
    """What else the machine did that may have changed the rate."""
    warnings = []
    if usage.other_percent is not None and usage.other_percent > OTHER_LOAD_PERCENT:
        warnings.append(f"other processes used {usage.other_percent:.0f}% of the machine")
    if usage.steal_percent is not None and usage.steal_percent > OTHER_LOAD_PERCENT:
        warnings.append(f"the hypervisor took {usage.steal_percent:.0f}% of the machine")
    if usage.cores and usage.cores[0] != usage.cores[1]:
        warnings.append(f"the number of cores changed between {usage.cores[0]:g} and {usage.cores[1]:g}")
    if usage.mhz and usage.best_mhz and usage.mhz < (1 - SLOWDOWN_SHARE) * usage.best_mhz:
        warnings.append(f"the CPU ran at {usage.mhz:.0f} MHz of {usage.best_mhz:.0f} before")
    if usage.throttled_s:
        warnings.append(f"a CPU quota held processes back for {usage.throttled_s:.1f} s")
    return warnings
