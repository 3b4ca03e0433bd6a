"""Measure one configuration: in-process, then served, level by level, then the best level again."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from servebench.benchmark.files import Files
from servebench.benchmark.inprocess import (
    BaselineRow,
    best_rates,
    efficiency,
    measure_inprocess,
)
from servebench.data import read_index
from servebench.errors import LoadError
from servebench.export import EXPORT_FOLDER
from servebench.load import CONTENT_TYPE, Level, LevelPlan, generate, photo_bodies
from servebench.lock import machine_to_ourselves
from servebench.machine import MACHINE_FILE, resolve_device
from servebench.measure.level import LevelRow, best_level, level_row, raw_samples
from servebench.measure.telemetry import Telemetry
from servebench.params import LoadSettings, Params, ServeSettings, load_params
from servebench.progress import bar
from servebench.results import read_json, rounded, write_csv, write_json
from servebench.serving.classifier import dtype_of
from servebench.serving.running import RunningServer, running_server


@dataclass(frozen=True)
class Served:
    """What the load on a server brought."""

    rows: list[LevelRow]
    best: LevelRow | None
    samples: list[dict[str, Any]]
    ready_s: float
    server_memory_mib: float
    gpu_memory_mib: float | None


def main(name: str) -> None:
    """Benchmark the configuration ``name`` of params.yaml and write its results."""
    params = load_params()
    serve = params.configuration(name)
    device = resolve_device(params.device)
    paths = [Path(photo.path) for photo in read_index().photos]
    with machine_to_ourselves():
        photos = [path.read_bytes() for path in paths]
        print(f"{name}: in-process, {describe(serve, device)}", flush=True)
        baseline = measure_inprocess(EXPORT_FOLDER, serve, device, photos, params.baseline)
        for row in baseline:
            print(
                f"{name}: batch {row['batch_size']:>3}: model alone {row['model_rps']:.1f} images/s, "
                f"with decoding {row['pipeline_rps']:.1f}",
                flush=True,
            )
        served = measure_served(name, serve, params.load, device, photo_bodies(paths))
    write_results(name, params, serve, device, baseline, served)


def describe(serve: ServeSettings, device: str) -> str:
    """The configuration in one line."""
    dtype = str(dtype_of(serve.precision, device)).removeprefix("torch.")
    workers = serve.workers_per_device
    return (
        f"{dtype}, max_batch_size {serve.max_batch_size}, batch_timeout {serve.batch_timeout_s:g} s, "
        f"{workers} worker{'s' if workers > 1 else ''}"
    )


def measure_served(
    name: str, serve: ServeSettings, load: LoadSettings, device: str, bodies: Sequence[bytes]
) -> Served:
    """Start a server, load it at every level, and once more and longer at the best one.

    The best level is chosen from the first round and reported from the second: the highest of
    several noisy rates is more likely a lucky one than the level's own.
    """
    print(f"{name}: starting the server", flush=True)
    with (
        running_server(EXPORT_FOLDER, serve, device, load.timeout_s) as server,
        Telemetry(server.pid) as telemetry,
    ):
        print(f"{name}: ready after {server.ready_s:.1f} s", flush=True)
        first = _round(name, server, telemetry, bodies, load, load.users, load.requests)
        rows = [row for row, _ in first]
        samples = [sample for _, level in first for sample in raw_samples(level, "every level")]
        best = best_level(rows)
        if best is not None:
            users = best["users"]
            [(best, level)] = _round(
                f"{name}: best level again",
                server,
                telemetry,
                bodies,
                load,
                [users],
                load.best_requests,
            )
            rows = [best if row["users"] == users else row for row in rows]
            samples += raw_samples(level, "best level")
        server.check()
        return Served(
            rows,
            best,
            samples,
            server.ready_s,
            telemetry.peak_server_rss_mib,
            telemetry.peak_gpu_memory_mib,
        )


def _round(
    name: str,
    server: RunningServer,
    telemetry: Telemetry,
    bodies: Sequence[bytes],
    load: LoadSettings,
    users: Sequence[int],
    requests: int,
) -> list[tuple[LevelRow, Level]]:
    plan = [
        LevelPlan(
            users=level,
            requests=requests,
            warmup_s=load.warmup_s,
            min_s=load.min_s,
            max_s=load.max_s,
            timeout_s=load.timeout_s,
            seed=load.seed,
        )
        for level in users
    ]
    with bar(requests * len(plan), name, "answer") as progress:
        try:
            levels = generate(
                f"{server.url}/predict",
                bodies,
                CONTENT_TYPE,
                plan,
                on_start=telemetry.follow_client,
                on_progress=_follow(server, progress, list(users), requests),
            )
        except LoadError:
            server.check()
            raise
    results = [(level_row(level, telemetry.usage(*level.window)), level) for level in levels]
    for row, _ in results:
        print(f"{name}: {_line(row)}", flush=True)
    return results


def _follow(
    server: RunningServer, progress: Any, users: list[int], requests: int
) -> Callable[[int, int, float], None]:
    """Move the bar as the load generator reports, and notice a server that has died."""

    def follow(level: int, answers: int, seconds: float) -> None:
        server.check()
        progress.set_postfix_str(f"{level} users")
        progress.update(users.index(level) * requests + min(answers, requests) - progress.n)

    return follow


def _line(row: LevelRow) -> str:
    p50 = "-" if row["p50_ms"] is None else f"{row['p50_ms']:.0f}"
    p95 = "-" if row["p95_ms"] is None else f"{row['p95_ms']:.0f}"
    verdict = "" if row["valid"] else f"; not valid: {row['why']}"
    return (
        f"{row['users']:>3} users: {row['throughput_rps']:.1f} req/s "
        f"({row['low_rps']:.1f} to {row['high_rps']:.1f}), p50 {p50} ms, p95 {p95} ms{verdict}"
    )


def write_results(
    name: str,
    params: Params,
    serve: ServeSettings,
    device: str,
    baseline: Sequence[BaselineRow],
    served: Served,
) -> None:
    """Write every file of the configuration; the metrics last, as a sign that all is there."""
    files = Files(name)
    best = served.best
    model_rps, pipeline_rps = best_rates(baseline)
    machine = read_json(MACHINE_FILE)
    share = efficiency(best["throughput_rps"] if best else None, pipeline_rps)
    if best and best["low_rps"] > max(row["pipeline_high_rps"] for row in baseline):
        print(f"{name}: served faster than in-process: an error of measuring", file=sys.stderr)
    write_csv(files.samples, served.samples)
    write_csv(files.baseline, baseline)
    write_csv(files.levels, served.rows)
    write_json(
        files.meta,
        {
            "serve": serve.model_dump(),
            "device": device,
            "dtype": str(dtype_of(serve.precision, device)).removeprefix("torch."),
            "threads_per_worker": torch.get_num_threads(),
            "machine": machine["id"],
            "versions": {key: machine[key] for key in ("python", "torch", "timm", "litserve", "locust")},
            "seed": params.load.seed,
            "ready_s": round(served.ready_s, 1),
            "peak_server_memory_mib": round(served.server_memory_mib),
            "peak_gpu_memory_mib": rounded(served.gpu_memory_mib, 0),
        },
    )
    write_json(
        files.metrics,
        {
            "throughput_rps": best["throughput_rps"] if best else None,
            "users": best["users"] if best else None,
            "p50_ms": best["p50_ms"] if best else None,
            "p95_ms": best["p95_ms"] if best else None,
            "p99_ms": best["p99_ms"] if best else None,
            "baseline_rps": model_rps,
            "efficiency": share,
            "cpu_percent": best["cpu_percent"] if best else None,
            "gpu_percent": best["gpu_percent"] if best else None,
            "failed": sum(row["failed"] + row["timed_out"] for row in served.rows),
        },
    )
