"""Summary of a concurrency level in a row of the results, and the choice of the best level."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from litmeter.benchmark.rows import LevelRow
from litmeter.benchmark.server_metrics import ServerTimes
from litmeter.benchmark.telemetry import Usage
from litmeter.benchmark.validity import invalid_reasons, machine_warnings
from litmeter.stats.rates import percentile, percentile_interval, throughput
from litmeter.stats.records import FAILED, OK, STATUS_NAMES, TIMED_OUT, LoadRecord
from litmeter.stats.windows import block_rates
from litmeter.system.files import rounded

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
