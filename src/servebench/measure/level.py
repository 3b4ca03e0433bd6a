"""One concurrency level: its record -> one row of the results, with a verdict."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict

from servebench.load import Level
from servebench.load.generator import FAILED, OK, TIMED_OUT
from servebench.measure.rates import part_rates, percentile, throughput
from servebench.measure.telemetry import Usage
from servebench.results import rounded

CLIENT_BUSY_PERCENT = 90.0
"""Of one core: the load generator is a single thread, above this it may be what limits the rate."""


class LevelRow(TypedDict):
    """One row of plots/benchmark/<experiment>.csv."""

    users: int
    throughput_rps: float
    low_rps: float
    high_rps: float
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    samples: int
    window_s: float
    sent: int
    ok: int
    failed: int
    timed_out: int
    cpu_percent: float | None
    server_cores: float | None
    client_cores: float | None
    gpu_percent: float | None
    gpu_memory_mib: float | None
    valid: bool
    why: str


def level_row(level: Level, usage: Usage) -> LevelRow:
    """Summarise one level.

    Throughput counts good answers only. Latencies are those of the good requests that ended within
    the window. The counts are of the whole level, warm-up and last requests included, so that none
    is left out: ``sent = ok + failed + timed_out``.
    """
    opened, closed = level.window
    good = level.status == OK
    rate = throughput(part_rates(level.start[good], level.end[good], opened, closed))
    inside = good & (level.end > opened) & (level.end <= closed)
    latency_ms = (level.end[inside] - level.start[inside]) * 1000
    failed = int((level.status == FAILED).sum())
    timed_out = int((level.status == TIMED_OUT).sum())
    why = []
    if failed or timed_out:
        why.append(f"{failed} failed and {timed_out} timed out of {len(level.status)}")
    if len(latency_ms) == 0:
        why.append("no answer within the window")
    if usage.client_cores is not None and usage.client_cores * 100 > CLIENT_BUSY_PERCENT:
        why.append(f"client-bound: its CPU was {usage.client_cores:.0%} of a core")
    return {
        "users": level.users,
        "throughput_rps": round(rate.rps, 2),
        "low_rps": round(rate.low_rps, 2),
        "high_rps": round(rate.high_rps, 2),
        "p50_ms": rounded(percentile(latency_ms, 50), 2),
        "p95_ms": rounded(percentile(latency_ms, 95), 2),
        "p99_ms": rounded(percentile(latency_ms, 99), 2),
        "samples": len(latency_ms),
        "window_s": round(closed - opened, 2),
        "sent": len(level.status),
        "ok": int(good.sum()),
        "failed": failed,
        "timed_out": timed_out,
        "cpu_percent": rounded(usage.cpu_percent, 1),
        "server_cores": rounded(usage.server_cores, 2),
        "client_cores": rounded(usage.client_cores, 2),
        "gpu_percent": rounded(usage.gpu_percent, 1),
        "gpu_memory_mib": rounded(usage.gpu_memory_mib, 0),
        "valid": not why,
        "why": "; ".join(why),
    }


def best_level(rows: Sequence[LevelRow]) -> LevelRow | None:
    """The valid level with the highest throughput; of those within its interval, the fewest users.

    None where no level is valid.
    """
    valid = [row for row in rows if row["valid"]]
    if not valid:
        return None
    top = max(valid, key=lambda row: row["throughput_rps"])
    equal = [row for row in valid if row["throughput_rps"] >= top["low_rps"]]
    return min(equal, key=lambda row: row["users"])


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
        }
        for user, start, end, status, code, size in zip(
            level.user, level.start, level.end, level.status, level.code, level.size, strict=True
        )
    ]
