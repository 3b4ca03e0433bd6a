"""Stage ``benchmark NAME``: measure one configuration in-process, served, and in-process again."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from servebench.benchmark.answers import compare
from servebench.benchmark.ceilings import client_ceiling_rps, null_server
from servebench.benchmark.inprocess import BaselineRow, inprocess_workers
from servebench.benchmark.served import Measured, Served, measure_served
from servebench.card import read_card
from servebench.data.index import read_index
from servebench.device import dtype_name, resolve_device
from servebench.load import request_bodies
from servebench.lock import machine_to_ourselves
from servebench.measure.telemetry import available_cores
from servebench.params import Params, ServeSettings, load_params
from servebench.paths import EXPORT_FOLDER, MACHINE, BenchmarkPaths
from servebench.reference import read_reference
from servebench.results import check_writable, read_json, rounded, together, write_csv, write_json

VERSIONS = ("python", "torch", "timm", "litserve", "locust")


def main(name: str) -> None:
    """Benchmark the configuration ``name`` of params.yaml and write its results.

    Raises:
        ServebenchError: no such configuration, no exported model, a part of it that failed, or results that
            cannot be written.
    """
    params = load_params()
    serve = params.configuration(name)
    read_card(EXPORT_FOLDER)
    device = resolve_device(params.device, read_json(MACHINE)["gpu"] is not None)
    paths = [Path(photo.path) for photo in read_index().photos]
    bodies = request_bodies(paths, serve.request_body)
    reference = read_reference(EXPORT_FOLDER)
    check_writable(BenchmarkPaths(name).all)
    with machine_to_ourselves():
        print(f"{name}: {describe(serve, device)}", flush=True)
        ceiling_rps = client_ceiling_rps(serve.request_body, params.load, bodies)
        null = null_server(serve, params.load, bodies)
        with inprocess_workers(EXPORT_FOLDER, serve, device, paths, params.baseline) as inprocess:
            inprocess.measure()
            served = measure_served(name, serve, params.load, device, bodies, ceiling_rps)
            inprocess.measure()
            baseline, threads = inprocess.rows(), inprocess.threads
    for row in baseline:
        print(
            f"{name}: in-process, {row['workers']} of {serve.workers_per_device} workers busy, batch "
            f"{row['batch_size']}: {row['model_rps']:.1f} images/s, with decoding {row['pipeline_rps']:.1f}"
        )
    dtype = dtype_name(serve.precision, device)
    answers = compare(reference, served.answers, dtype, serve.preprocess)
    print(
        f"{name}: {answers['photos']} photos served: agreement with full precision {answers['agreement']}, "
        f"accuracy {answers['accuracy']}, {answers['misplaced']} misplaced"
    )
    around = {
        "cores": available_cores(),
        "null_rps": round(null.rate.rps, 2),
        "null_low_rps": round(null.rate.low_rps, 2),
        "null_high_rps": round(null.rate.high_rps, 2),
        "null_cpu_ms": rounded(null.cpu_ms, 3),
        "null_client_cpu_ms": rounded(null.client_cpu_ms, 3),
        "client_ceiling_rps": ceiling_rps,
    }
    ran = Ran(name, params, serve, device, threads, baseline, served, answers, around)
    with together():
        write_results(ran)


@dataclass(frozen=True)
class Ran:
    """Everything that was measured of one configuration.

    Attributes:
        threads: torch's, in each worker.
        answers: accuracy through the served path.
        around: what bounds the rate besides the model.
    """

    name: str
    params: Params
    serve: ServeSettings
    device: str
    threads: int
    baseline: Sequence[BaselineRow]
    served: Served
    answers: Mapping[str, Any]
    around: Mapping[str, Any]


def describe(serve: ServeSettings, device: str) -> str:
    """The configuration in one line."""
    workers, threads = serve.workers_per_device, serve.threads_per_worker
    parts = [
        dtype_name(serve.precision, device),
        f"max_batch_size {serve.max_batch_size}",
        f"batch_timeout {serve.batch_timeout_s:g} s",
        f"{workers} worker{'s' if workers > 1 else ''}"
        + (f" of {threads} thread{'s' if threads > 1 else ''}" if threads else ""),
        "direct transport" if serve.transport == "direct" else "",
        "compiled" if serve.compiled else "",
        "fast preprocessing" if serve.preprocess == "fast" else "",
        "freed memory kept" if serve.keep_freed_memory else "",
        "bodies are image files" if serve.request_body == "image" else "",
    ]
    return ", ".join(filter(None, parts))


def write_results(ran: Ran) -> None:
    """Write every file of the configuration: all of them, or none."""
    paths = BenchmarkPaths(ran.name)
    served, best = ran.served, ran.served.best
    machine = read_json(MACHINE)
    pipeline = max(ran.baseline, key=lambda row: row["pipeline_rps"])
    if best and best["low_rps"] > pipeline["pipeline_high_rps"]:
        print(f"{ran.name}: served faster than in-process: an error of measuring", file=sys.stderr)
    write_csv(paths.samples, served.samples)
    write_csv(paths.baseline, ran.baseline)
    write_csv(paths.stages, stage_rows(served.levels), ("users", "stage", "mean_ms"))
    write_csv(paths.batches, batch_rows(served.levels), ("users", "up_to", "batches"))
    write_csv(paths.levels, served.rows)
    write_json(paths.answers, ran.answers)
    write_json(
        paths.meta,
        {
            "serve": ran.serve.model_dump(),
            "device": ran.device,
            "dtype": dtype_name(ran.serve.precision, ran.device),
            "threads_per_worker": ran.threads,
            "machine": machine["id"],
            "versions": {library: machine[library] for library in VERSIONS},
            "seed": ran.params.load.seed,
            "ready_s": round(served.ready_s, 1),
            "peak_server_memory_mib": round(served.server_memory_mib),
            "peak_gpu_memory_mib": rounded(served.gpu_memory_mib, 0),
            **ran.around,
        },
    )
    write_json(
        paths.metrics,
        {
            "throughput_rps": best["throughput_rps"] if best else None,
            "users": best["users"] if best else None,
            "p50_ms": best["p50_ms"] if best else None,
            "p95_ms": best["p95_ms"] if best else None,
            "p99_ms": best["p99_ms"] if best else None,
            "baseline_rps": max(row["model_rps"] for row in ran.baseline),
            "efficiency": round(best["throughput_rps"] / pipeline["pipeline_rps"], 3) if best else None,
            "cpu_percent": best["cpu_percent"] if best else None,
            "gpu_percent": best["gpu_percent"] if best else None,
            "failed": sum(row["failed"] + row["timed_out"] for row in served.rows),
        },
    )


def stage_rows(levels: Sequence[Measured]) -> list[dict[str, Any]]:
    """Mean time of a request in each stage, by level."""
    return [
        {"users": one.row["users"], "stage": stage, "mean_ms": round(mean_ms, 3)}
        for one in levels
        if one.times
        for stage, mean_ms in one.times.stage_ms.items()
    ]


def batch_rows(levels: Sequence[Measured]) -> list[dict[str, Any]]:
    """Histogram of batch sizes, by level; sizes that never came are left out."""
    return [
        {"users": one.row["users"], "up_to": bound, "batches": batches}
        for one in levels
        if one.times
        for bound, batches in one.times.batches.items()
        if batches
    ]
