"""Results that were never measured: a healthy configuration on two cores, which each test changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from litmeter.measure.rows import BaselineRow, BatchRow, ComparisonRow, LevelRow, RoundRow, StageRow
from litmeter.params import ServeSettings
from litmeter.paths import BenchmarkPaths
from litmeter.report.results import Result
from litmeter.system.files import write_json, write_rows

CEILINGS: dict[str, Any] = {
    "architecture": "tiny",
    "datasheet_full_rps": None,
    "datasheet_half_rps": None,
    "roofline_full_rps": 110.0,
    "roofline_half_rps": 220.0,
    "roofline_full_bound": "compute",
    "roofline_half_bound": "memory",
    "roofline_full_batch": 1,
    "roofline_half_batch": None,
}
STAGES = {
    "queue": 1.0,
    "decode": 2.0,
    "preprocess": 1.0,
    "batch_wait": 0.0,
    "model": 10.0,
    "encode": 0.1,
    "transport": 2.0,
}


def level(users: int, rps: float, p95_ms: float | None = 100.0, **changes: Any) -> LevelRow:
    """A level that nothing is wrong with, its rate known to 3%."""
    normal = LevelRow(
        users=users,
        throughput_rps=rps,
        low_rps=rps * 0.97,
        high_rps=rps * 1.03,
        first_rps=None,
        mean_ms=1000 * users / rps,
        p50_ms=10.0,
        p50_low_ms=9.5,
        p50_high_ms=10.5,
        p95_ms=p95_ms,
        p95_low_ms=p95_ms and p95_ms * 0.9,
        p95_high_ms=p95_ms and p95_ms * 1.1,
        p99_ms=None,
        p99_low_ms=None,
        p99_high_ms=None,
        samples=600,
        windows=3,
        window_s=30.0,
        sent=700,
        ok=700,
        failed=0,
        timed_out=0,
        batch_size=1.0,
        cpu_percent=95.0,
        server_cores=1.7,
        client_cores=0.1,
        http_cpu_ms=1.0,
        workers_cpu_ms=18.0,
        manager_cpu_ms=0.5,
        client_cpu_ms=0.5,
        client_late_ms=0.1,
        client_limit_share=0.05,
        other_percent=1.0,
        steal_percent=0.0,
        cpu_mhz=2400.0,
        gpu_percent=None,
        gpu_memory_mib=None,
        gpu_power_w=None,
        invalid_reason="",
        warnings="",
    )
    return replace(normal, **changes)


def batch(size: int, model_rps: float, pipeline_rps: float, **changes: Any) -> BaselineRow:
    """One batch size in-process, the rates known to 2%, all cores busy."""
    normal = BaselineRow(
        batch_size=size,
        workers=1,
        model_rps=model_rps,
        model_low_rps=model_rps * 0.98,
        model_high_rps=model_rps * 1.02,
        pipeline_rps=pipeline_rps,
        pipeline_low_rps=pipeline_rps * 0.98,
        pipeline_high_rps=pipeline_rps * 1.02,
        pipeline_slowest_rps=pipeline_rps,
        pipeline_fastest_rps=pipeline_rps,
        pipeline_cpu_ms=1900 / pipeline_rps,
        model_ms=1000 * size / model_rps,
    )
    return replace(normal, **changes)


def compared(
    name: str, rate_rps: float | None, rank: int | None, p95_ms: float | None = 100.0
) -> ComparisonRow:
    """A row of a comparison at 8 users whose reference serves 20 requests/s."""
    ratio = rate_rps and rate_rps / 20.0
    return ComparisonRow(
        users=8,
        experiment=name,
        rate_rps=rate_rps,
        lowest_rps=rate_rps and rate_rps * 0.9,
        highest_rps=rate_rps and rate_rps * 1.1,
        ratio=ratio,
        ratio_low=ratio and (1.0 if ratio == 1.0 else ratio * 0.95),
        ratio_high=ratio and (1.0 if ratio == 1.0 else ratio * 1.05),
        rank=rank,
        p50_ms=p95_ms and p95_ms / 2,
        p50_low_ms=p95_ms and p95_ms * 0.45,
        p50_high_ms=p95_ms and p95_ms * 0.55,
        p95_ms=p95_ms,
        p95_low_ms=p95_ms and p95_ms * 0.9,
        p95_high_ms=p95_ms and p95_ms * 1.1,
        failed=0,
        rounds=12,
        earlier=False,
    )


def at_best(best: LevelRow, *others: LevelRow, **options: Any) -> Result:
    """The configuration e1, whose best level is the first one."""
    return result("e1", [best, *others], best=best, **options)


def result(
    name: str,
    levels: Sequence[LevelRow],
    *,
    best: LevelRow | None = None,
    baseline: Sequence[BaselineRow] = (batch(1, 100.0, 100.0),),
    rounds: Sequence[RoundRow] = (),
    stages: Mapping[int, Mapping[str, float]] | None = None,
    serve: ServeSettings | None = None,
    **run: Any,
) -> Result:
    """A configuration on two cores whose transport costs nothing; ``stages`` in ms by users."""
    times = {one.users: STAGES for one in levels} if stages is None else stages
    return Result(
        name=name,
        serve=serve or ServeSettings(),
        metrics={
            "throughput_rps": best.throughput_rps if best else None,
            "users": best.users if best else None,
            "p50_ms": best.p50_ms if best else None,
            "p95_ms": best.p95_ms if best else None,
            "p99_ms": None,
            "baseline_rps": max(row.model_rps for row in baseline),
            "efficiency": 0.8 if best else None,
            "cpu_percent": best.cpu_percent if best else None,
            "gpu_percent": None,
            "ready_s": 4.5,
            "memory_mib": 400,
            "failed": 0,
        },
        run={
            "dtype": "float32",
            "device": "cpu",
            "threads_per_worker": 2,
            "cores": 2,
            "null_rps": 800.0,
            "null_low_rps": 780.0,
            "null_high_rps": 820.0,
            "null_cpu_ms": 0.5,
            "null_client_cpu_ms": 0.3,
            "client_limit_rps": 2000.0,
        }
        | run,
        levels=list(levels),
        baseline=list(baseline),
        rounds=list(rounds),
        stages=[StageRow(users, stage, ms) for users, own in times.items() for stage, ms in own.items()],
        batches=[BatchRow(one.users, "1", 100) for one in levels],
        accuracy={
            "photos": 370,
            "answers": 900,
            "agreement": 0.997,
            "agreement_low": 0.985,
            "agreement_high": 1.0,
            "accuracy": 0.991,
            "accuracy_low": 0.951,
            "accuracy_high": 0.998,
            "largest_difference": 0.01,
            "mismatched": 0,
        },
    )


def write_result(own: Result) -> None:
    """Write the files of ``own`` below the working directory, as its benchmark would."""
    paths = BenchmarkPaths(own.name)
    for path, content in ((paths.metrics, own.metrics), (paths.accuracy, own.accuracy), (paths.run, own.run)):
        write_json(path, content)
    write_rows(paths.levels, LevelRow, own.levels)
    write_rows(paths.baseline, BaselineRow, own.baseline)
    write_rows(paths.rounds, RoundRow, own.rounds)
    write_rows(paths.stages, StageRow, own.stages)
    write_rows(paths.batches, BatchRow, own.batches)
