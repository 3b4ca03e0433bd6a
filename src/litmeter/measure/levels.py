"""A concurrency level as a row of results: its figures, whether they are valid, and the best of several."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from scipy.special import stdtrit

from litmeter.measure.rows import LevelRow
from litmeter.measure.server_metrics import ServerTimes
from litmeter.measure.telemetry import Usage
from litmeter.stats.rates import Throughput, percentile, percentile_interval, throughput
from litmeter.stats.records import (
    FAILED,
    OK,
    STATUS_NAMES,
    TIMED_OUT,
    WINDOWS,
    LoadRecord,
    block_rates,
    fewest_answers,
    spread,
    steady,
    window_means,
)
from litmeter.system.files import rounded
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


PERCENTS = (50, 95, 99)
MOMENT_S = 1e-6
"""Length of a request that counts only where it ended."""
DRIFT_SHARE = 0.1
"""A larger change of the same rate between two runs is noted: the machine has changed."""
ROLES = ("http", "worker", "manager")
"""Processes of the server: HTTP, inference, and all others, of which LitServe's manager alone has work."""


def level_row(
    record: LoadRecord,
    usage: Usage,
    times: ServerTimes | None = None,
    roles: Mapping[int, str] | None = None,
    client_limit_rps: float | None = None,
) -> LevelRow:
    """Summarise one level.

    Throughput counts good answers only. Latencies are those of the good requests that ended within
    the reported windows, or, in an open loop, were due there. Percentiles of an open loop have no interval:
    long waits come together in its queue, and no interval of a single window holds a p95 near the capacity
    as often as it says. The counts are of the whole level, warm-up and last requests included, so that none
    is left out: ``sent = ok + failed + timed_out``.

    Args:
        times: stage times and batch sizes from the server's metrics of the window.
        roles: the server's processes, by process id.
        client_limit_rps: the load generator's rate against a server that answers at once.
    """
    opened, closed = record.window
    good = record.status == OK
    # In an open loop a queue may grow: time that a request spends waiting in it is no work done.
    start = record.start if record.rate_rps is None else record.end - MOMENT_S
    rate = throughput(block_rates(start[good], record.end[good], opened, closed))
    inside = good & record.in_window
    latency_ms = (record.end[inside] - record.start[inside]) * 1000
    mean_ms = float(latency_ms.mean()) if len(latency_ms) else None
    limit_share = rate.rps / client_limit_rps if client_limit_rps else None
    reasons = invalid_reasons(record, rate, mean_ms, usage, limit_share)
    percentiles: dict[str, float | None] = {}
    for percent in PERCENTS:
        closed_loop = record.rate_rps is None
        interval = percentile_interval(latency_ms, record.end[inside], percent) if closed_loop else None
        low, high = interval or (None, None)
        percentiles[f"p{percent}_ms"] = rounded(percentile(latency_ms, percent), 2)
        percentiles[f"p{percent}_low_ms"] = rounded(low, 2)
        percentiles[f"p{percent}_high_ms"] = rounded(high, 2)
    cores = cores_by_role(usage, roles) if roles else {}
    return LevelRow(
        users=record.users,
        throughput_rps=round(rate.rps, 2),
        low_rps=round(rate.low_rps, 2),
        high_rps=round(rate.high_rps, 2),
        first_rps=None,
        mean_ms=rounded(mean_ms, 2),
        **percentiles,
        samples=len(latency_ms),
        windows=len(record.window_edges) - 1,
        window_s=round(closed - opened, 2),
        sent=len(record.status),
        ok=int(good.sum()),
        failed=int((record.status == FAILED).sum()),
        timed_out=int((record.status == TIMED_OUT).sum()),
        batch_size=rounded(times.batch_size if times else None, 2),
        cpu_percent=rounded(usage.cpu_percent, 1),
        server_cores=rounded(usage.server_cores, 2),
        client_cores=rounded(usage.client_cores, 2),
        http_cpu_ms=_per_request_ms(cores.get("http"), rate.rps),
        workers_cpu_ms=_per_request_ms(cores.get("worker"), rate.rps),
        manager_cpu_ms=_per_request_ms(cores.get("manager"), rate.rps),
        client_cpu_ms=_per_request_ms(usage.client_cores, rate.rps),
        client_late_ms=rounded(lateness_ms(record), 2),
        client_limit_share=rounded(limit_share, 3),
        other_percent=rounded(usage.other_percent, 1),
        steal_percent=rounded(usage.steal_percent, 1),
        cpu_mhz=rounded(usage.mhz, 0),
        gpu_percent=rounded(usage.gpu_percent, 1),
        gpu_memory_mib=rounded(usage.gpu_memory_mib, 0),
        gpu_power_w=rounded(usage.gpu_power_w, 0),
        invalid_reason="; ".join(reasons),
        warnings="; ".join(machine_warnings(usage)),
    )


def measured_again(first: LevelRow, again: LevelRow) -> LevelRow:
    """The row of a level's later run, with the rate before, ``first``'s, which may be a mean of two runs.

    The rate's interval is widened to contain both: that of one run knows nothing of a machine that changes
    its speed between them. A difference of more than DRIFT_SHARE is a warning.
    """
    warnings = again.warnings
    if first.throughput_rps > 0 and abs(again.throughput_rps / first.throughput_rps - 1) > DRIFT_SHARE:
        change = f"it did {first.throughput_rps:.1f} req/s before"
        warnings = "; ".join(filter(None, (warnings, change)))
    return replace(
        again,
        first_rps=first.throughput_rps,
        low_rps=min(again.low_rps, first.throughput_rps),
        high_rps=max(again.high_rps, first.throughput_rps),
        warnings=warnings,
    )


def cores_by_role(usage: Usage, roles: Mapping[int, str]) -> dict[str, float]:
    """CPU seconds per second by role; processes without a role count as the manager's."""
    cores = dict.fromkeys(ROLES, 0.0)
    for pid, process_cores in usage.process_cores.items():
        cores[roles.get(pid, "manager")] += process_cores
    return cores


def lateness_ms(record: LoadRecord) -> float | None:
    """99th percentile of the delay from when a request was due until it was sent, ms.

    In a closed loop a request is due when the same user's last one has been answered with 200.
    """
    opened, closed = record.window
    if record.rate_rps is not None:
        late_s = (record.sent - record.start)[(record.start > opened) & (record.start <= closed)]
        return float(np.percentile(late_s, 99)) * 1000 if len(late_s) else None
    gaps_s: list[float] = []
    for user in range(record.users):
        of_user = record.user == user
        answered, next_start = record.end[of_user][:-1], record.start[of_user][1:]
        good = (record.status == OK)[of_user][:-1]
        inside = good & (answered > opened) & (next_start <= closed)
        gaps_s += list((next_start - answered)[inside])
    return float(np.percentile(gaps_s, 99)) * 1000 if gaps_s else None


def _per_request_ms(cores: float | None, rps: float) -> float | None:
    return None if cores is None or rps <= 0 else round(1000 * cores / rps, 3)


def fastest_level(rows: Sequence[LevelRow]) -> LevelRow | None:
    """The level with the highest throughput; of those within its interval, the fewest users."""
    if not rows:
        return None
    top = max(rows, key=lambda row: row.throughput_rps)
    equal = [row for row in rows if row.throughput_rps >= top.low_rps]
    return min(equal, key=lambda row: row.users)


def fastest_first(rows: Sequence[LevelRow]) -> list[LevelRow]:
    """The levels at which no request failed, the best one first: see ``fastest_level``."""
    remaining = [row for row in rows if did_not_fail(row)]
    ordered = []
    while (fastest := fastest_level(remaining)) is not None:
        ordered.append(fastest)
        remaining.remove(fastest)
    return ordered


def did_not_fail(row: LevelRow) -> bool:
    """Whether there were answers, and all requests were answered well."""
    return row.samples > 0 and not row.failed and not row.timed_out


def raw_samples(record: LoadRecord, phase: str) -> list[dict[str, Any]]:
    """Every request of a level as a row; ``start_s`` counts from the beginning of the reported windows."""
    opened, closed = record.window
    return [
        {
            "phase": phase,
            "users": record.users,
            "user": int(user),
            "start_s": round(float(start - opened), 6),
            "latency_ms": round(float(end - start) * 1000, 3),
            "measured": bool(opened < end <= closed),
            "status": STATUS_NAMES[int(status)],
            "code": int(code),
            "bytes": int(size),
            "body": int(body),
        }
        for user, start, end, status, code, size, body in zip(
            record.user,
            record.start,
            record.end,
            record.status,
            record.code,
            record.size,
            record.body,
            strict=True,
        )
    ]
