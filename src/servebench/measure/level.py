"""One concurrency level: its record -> one row of the results, with a verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict, cast

import numpy as np

from servebench.load import Level
from servebench.load.generator import FAILED, OK, TIMED_OUT
from servebench.measure.rates import (
    SAMPLES_NEEDED,
    part_rates,
    percentile,
    percentile_interval,
    throughput,
)
from servebench.measure.server import ServerTimes
from servebench.measure.telemetry import Usage
from servebench.measure.verdict import notes, reasons
from servebench.results import rounded

INSTANT_S = 1e-6
DRIFT_SHARE = 0.1
"""A change of the same rate between two runs that is noted: the machine is not what it was."""
ROLES = ("api", "worker", "manager")
"""Processes of the server: HTTP, inference, and all others, of which LitServe's manager works."""


class LevelRow(TypedDict):
    """One row of plots/benchmark/<experiment>.csv.

    ``first_rps`` is the rate of the first round, where the level has been measured again.
    """

    users: int
    throughput_rps: float
    low_rps: float
    high_rps: float
    first_rps: float | None
    mean_ms: float | None
    p50_ms: float | None
    p50_low_ms: float | None
    p50_high_ms: float | None
    p95_ms: float | None
    p95_low_ms: float | None
    p95_high_ms: float | None
    p99_ms: float | None
    p99_low_ms: float | None
    p99_high_ms: float | None
    samples: int
    windows: int
    window_s: float
    sent: int
    ok: int
    failed: int
    timed_out: int
    batch_size: float | None
    cpu_percent: float | None
    server_cores: float | None
    client_cores: float | None
    api_cpu_ms: float | None
    workers_cpu_ms: float | None
    manager_cpu_ms: float | None
    client_cpu_ms: float | None
    client_late_ms: float | None
    client_share: float | None
    other_percent: float | None
    steal_percent: float | None
    cpu_mhz: float | None
    gpu_percent: float | None
    gpu_memory_mib: float | None
    gpu_power_w: float | None
    gpu_clock_mhz: float | None
    valid: bool
    why: str
    notes: str


def level_row(
    level: Level,
    usage: Usage,
    times: ServerTimes | None = None,
    roles: Mapping[int, str] | None = None,
    ceiling_rps: float | None = None,
) -> LevelRow:
    """Summarise one level.

    Throughput counts good answers only. Latencies are those of the good requests that ended within
    the reported windows. The counts are of the whole level, warm-up and last requests included, so
    that none is left out: ``sent = ok + failed + timed_out``.

    Args:
        times: the server's own account of the window.
        roles: what each of the server's processes does, by process id.
        ceiling_rps: what the load generator reaches against a server that answers at once.
    """
    opened, closed = level.window
    good = level.status == OK
    # Where a queue may grow, the parts of what still waits are no measure of what was done.
    begun = level.start if level.rate_rps is None else level.end - INSTANT_S
    rate = throughput(part_rates(begun[good], level.end[good], opened, closed))
    inside = good & (level.end > opened) & (level.end <= closed)
    latency_ms = (level.end[inside] - level.start[inside]) * 1000
    mean_ms = float(latency_ms.mean()) if len(latency_ms) else None
    share = rate.rps / ceiling_rps if ceiling_rps else None
    why = reasons(level, rate, mean_ms, usage, share)
    columns: dict[str, Any] = {}
    for percent in SAMPLES_NEEDED:
        low, high = percentile_interval(latency_ms, level.end[inside], percent) or (None, None)
        columns[f"p{percent}_ms"] = rounded(percentile(latency_ms, percent), 2)
        columns[f"p{percent}_low_ms"] = rounded(low, 2)
        columns[f"p{percent}_high_ms"] = rounded(high, 2)
    cores = cores_by_role(usage, roles) if roles else {}
    row = {
        "users": level.users,
        "throughput_rps": round(rate.rps, 2),
        "low_rps": round(rate.low_rps, 2),
        "high_rps": round(rate.high_rps, 2),
        "first_rps": None,
        "mean_ms": rounded(mean_ms, 2),
        **columns,
        "samples": len(latency_ms),
        "windows": len(level.edges) - 1,
        "window_s": round(closed - opened, 2),
        "sent": len(level.status),
        "ok": int(good.sum()),
        "failed": int((level.status == FAILED).sum()),
        "timed_out": int((level.status == TIMED_OUT).sum()),
        "batch_size": rounded(times.batch_size if times else None, 2),
        "cpu_percent": rounded(usage.cpu_percent, 1),
        "server_cores": rounded(usage.server_cores, 2),
        "client_cores": rounded(usage.client_cores, 2),
        "api_cpu_ms": _per_request_ms(cores.get("api"), rate.rps),
        "workers_cpu_ms": _per_request_ms(cores.get("worker"), rate.rps),
        "manager_cpu_ms": _per_request_ms(cores.get("manager"), rate.rps),
        "client_cpu_ms": _per_request_ms(usage.client_cores, rate.rps),
        "client_late_ms": rounded(lateness_ms(level), 2),
        "client_share": rounded(share, 3),
        "other_percent": rounded(usage.other_percent, 1),
        "steal_percent": rounded(usage.steal_percent, 1),
        "cpu_mhz": rounded(usage.mhz, 0),
        "gpu_percent": rounded(usage.gpu_percent, 1),
        "gpu_memory_mib": rounded(usage.gpu_memory_mib, 0),
        "gpu_power_w": rounded(usage.gpu_power_w, 0),
        "gpu_clock_mhz": rounded(usage.gpu_clock_mhz, 0),
        "valid": not why,
        "why": "; ".join(why),
        "notes": "; ".join(notes(usage)),
    }
    return cast(LevelRow, row)


def measured_again(first: LevelRow, again: LevelRow) -> LevelRow:
    """The row of a level's second run, which keeps the first one's rate, and a note where they differ."""
    row = again.copy()
    row["first_rps"] = first["throughput_rps"]
    if abs(again["throughput_rps"] / first["throughput_rps"] - 1) > DRIFT_SHARE:
        change = f"it did {first['throughput_rps']:.1f} req/s when first measured"
        row["notes"] = "; ".join(filter(None, (again["notes"], change)))
    return row


def cores_by_role(usage: Usage, roles: Mapping[int, str]) -> dict[str, float]:
    """CPU seconds per second of each of ROLES; processes without a role count as the manager's."""
    cores = dict.fromkeys(ROLES, 0.0)
    for pid, used in usage.process_cores.items():
        cores[roles.get(pid, "manager")] += used
    return cores


def lateness_ms(level: Level) -> float | None:
    """99th percentile of how late requests were sent, ms.

    In a closed loop a request is due when the same user's last one has been answered well.
    """
    opened, closed = level.window
    if level.rate_rps is not None:
        late = (level.sent - level.start)[(level.start > opened) & (level.start <= closed)]
        return float(np.percentile(late, 99)) * 1000 if len(late) else None
    gaps: list[float] = []
    for user in range(level.users):
        own = level.user == user
        ended, started, good = level.end[own][:-1], level.start[own][1:], (level.status == OK)[own][:-1]
        inside = good & (ended > opened) & (started <= closed)
        gaps += list((started - ended)[inside])
    return float(np.percentile(gaps, 99)) * 1000 if gaps else None


def _per_request_ms(cores: float | None, rps: float) -> float | None:
    return None if cores is None or rps <= 0 else round(1000 * cores / rps, 3)


def fastest_level(rows: Sequence[LevelRow]) -> LevelRow | None:
    """The level with the highest throughput; of those within its interval, the fewest users.

    Valid or not, as long as no request failed: None where some did at every level.
    """
    unfailing = [row for row in rows if row["samples"] and not row["failed"] and not row["timed_out"]]
    if not unfailing:
        return None
    top = max(unfailing, key=lambda row: row["throughput_rps"])
    equal = [row for row in unfailing if row["throughput_rps"] >= top["low_rps"]]
    return min(equal, key=lambda row: row["users"])


def best_level(rows: Sequence[LevelRow]) -> LevelRow | None:
    """The fastest valid level; where none is valid, the fastest, whose row says what is wrong with it."""
    return fastest_level([row for row in rows if row["valid"]]) or fastest_level(rows)


def raw_samples(level: Level, phase: str) -> list[dict[str, Any]]:
    """Every request of a level as a row: start from the window's opening, seconds."""
    names = {OK: "ok", FAILED: "failed", TIMED_OUT: "timed out"}
    opened, closed = level.window
    return [
        {
            "phase": phase,
            "users": level.users,
            "user": int(user),
            "start_s": round(float(start - opened), 6),
            "latency_ms": round(float(end - start) * 1000, 3),
            "measured": bool(opened < end <= closed),
            "status": names[int(status)],
            "code": int(code),
            "bytes": int(size),
            "body": int(body),
        }
        for user, start, end, status, code, size, body in zip(
            level.user,
            level.start,
            level.end,
            level.status,
            level.code,
            level.size,
            level.body,
            strict=True,
        )
    ]
