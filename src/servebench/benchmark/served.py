"""A server under load: every level, then the best one again and longer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from servebench.errors import LoadError
from servebench.load import CONTENT_TYPE, Level, LevelPlan, generate
from servebench.measure.level import LevelRow, best_level, level_row, raw_samples
from servebench.measure.telemetry import Telemetry
from servebench.params import LoadSettings, ServeSettings
from servebench.paths import EXPORT_FOLDER
from servebench.progress import bar
from servebench.serving.running import RunningServer, running_server


@dataclass(frozen=True)
class Served:
    """What the load on a server brought.

    Attributes:
        rows: one per level; that of the best level from its second, longer run.
        best: the row of the best level, None where no level is valid.
        samples: every request of every run.
    """

    rows: list[LevelRow]
    best: LevelRow | None
    samples: list[dict[str, Any]]
    ready_s: float
    server_memory_mib: float
    gpu_memory_mib: float | None


def measure_served(
    name: str, serve: ServeSettings, load: LoadSettings, device: str, bodies: Sequence[bytes]
) -> Served:
    """Start a server of the exported model, load it at every level, then again at the best one.

    The best level is chosen from the first round and reported from the second: the highest of
    several noisy rates is more likely a lucky one than the level's own.

    Raises:
        ServerError: the server died; LoadError: the load generator did.
    """
    with (
        running_server(EXPORT_FOLDER, serve, device, load.timeout_s) as server,
        Telemetry(server.pid) as telemetry,
    ):
        print(f"{name}: server ready after {server.ready_s:.1f} s", flush=True)
        every = [_plan(load, users, load.requests, load.max_s) for users in load.users]
        first = _run(name, server, telemetry, bodies, every)
        rows = [row for row, _ in first]
        samples = [sample for _, level in first for sample in raw_samples(level, "every level")]
        best = best_level(rows)
        if best is not None:
            users = best["users"]
            again = [_plan(load, users, load.best_requests, load.best_max_s)]
            [(best, level)] = _run(f"{name}: best level again", server, telemetry, bodies, again)
            rows = [best if row["users"] == users else row for row in rows]
            samples += raw_samples(level, "best level")
        server.check()
        return Served(
            rows=rows,
            best=best if best and best["valid"] else None,
            samples=samples,
            ready_s=server.ready_s,
            server_memory_mib=telemetry.peak_server_rss_mib,
            gpu_memory_mib=telemetry.peak_gpu_memory_mib,
        )


def _plan(load: LoadSettings, users: int, requests: int, max_s: float) -> LevelPlan:
    return LevelPlan(
        users=users,
        requests=requests,
        warmup_s=load.warmup_s,
        min_s=load.min_s,
        max_s=max_s,
        timeout_s=load.timeout_s,
        seed=load.seed,
    )


def _run(
    what: str,
    server: RunningServer,
    telemetry: Telemetry,
    bodies: Sequence[bytes],
    plan: Sequence[LevelPlan],
) -> list[tuple[LevelRow, Level]]:
    with bar(sum(level.requests for level in plan), what, "answer") as progress:
        try:
            levels = generate(
                f"{server.url}/predict",
                bodies,
                CONTENT_TYPE,
                plan,
                on_start=telemetry.follow_client,
                on_progress=_follow(server, progress, plan),
            )
        except LoadError:
            server.check()  # a dead server is the better explanation
            raise
    results = [(level_row(level, telemetry.usage(*level.window)), level) for level in levels]
    for row, _ in results:
        print(f"{what}: {_line(row)}", flush=True)
    return results


def _follow(
    server: RunningServer, progress: Any, plan: Sequence[LevelPlan]
) -> Callable[[int, int, float], None]:
    """Move the bar as the load generator reports, and notice a server that has died."""
    before = {level.users: sum(p.requests for p in plan[:place]) for place, level in enumerate(plan)}
    wanted = {level.users: level.requests for level in plan}

    def follow(users: int, answers: int, seconds: float) -> None:
        server.check()
        progress.set_postfix_str(f"{users} users")
        progress.update(before[users] + min(answers, wanted[users]) - progress.n)

    return follow


def _line(row: LevelRow) -> str:
    p50, p95 = ("-" if row[key] is None else f"{row[key]:.0f}" for key in ("p50_ms", "p95_ms"))
    verdict = "" if row["valid"] else f"; not valid: {row['why']}"
    return (
        f"{row['users']:>3} users: {row['throughput_rps']:.1f} req/s "
        f"({row['low_rps']:.1f} to {row['high_rps']:.1f}), p50 {p50} ms, p95 {p95} ms{verdict}"
    )
