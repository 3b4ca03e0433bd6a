"""Stage ``benchmark NAME``: measure one configuration in-process and served."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

from litmeter.data.index import read_index
from litmeter.load import load_generator
from litmeter.measure.accuracy import compare
from litmeter.measure.inprocess import inprocess_workers
from litmeter.measure.overheads import NullServer, measure_null_server
from litmeter.measure.rows import BaselineRow, BatchRow, LevelRow, RoundRow, StageRow, pipeline_as_served
from litmeter.measure.served import LevelResult, ServedResult, measure_served
from litmeter.measure.telemetry import available_cores
from litmeter.model.card import read_card
from litmeter.model.compiled.manifest import split_note
from litmeter.model.device import dtype_name, resolve_device
from litmeter.model.reference import read_reference
from litmeter.params import Params, ServeSettings, load_params
from litmeter.paths import CEILINGS, MACHINE, MODEL, BenchmarkPaths
from litmeter.report.printed import describe
from litmeter.serve.client import CONTENT_TYPES, request_bodies
from litmeter.serve.launcher import running_server
from litmeter.system.files import (
    all_or_nothing,
    check_writable,
    read_json,
    rounded,
    write_csv,
    write_json,
    write_rows,
)
from litmeter.system.machine import exclusive_machine
from litmeter.system.progress import print_wrapped

LEAST_S, RUNS = 30.0, 3
"""For a benchmark, the servers' starts included, or as long as so many runs of all levels take, if that is
more. Where starts take long, levels run fewer times."""
RECORDED_VERSIONS = ("python", "torch", "timm", "litserve")


@dataclass(frozen=True)
class Measurement:
    """Everything that was measured of one configuration.

    Attributes:
        threads: torch's, in each worker.
        accuracy: of the served answers.
        null: the same server with a null model.
        client_limit_rps: the load generator's rate against an echo server, from metrics/ceilings.json.
    """

    name: str
    params: Params
    serve: ServeSettings
    device: str
    threads: int
    baseline: Sequence[BaselineRow]
    rounds: Sequence[RoundRow]
    served: ServedResult
    accuracy: Mapping[str, Any]
    null: NullServer
    client_limit_rps: float


def main(name: str) -> None:
    """Benchmark the configuration ``name`` of params.yaml and write its results.

    Raises:
        LitmeterError: there is no such configuration or no exported model, a part of the measurement
            failed, or results cannot be written.
    """
    params = load_params()
    serve = params.configuration(name)
    read_card(MODEL.exported)
    device = resolve_device(params.device, read_json(MACHINE)["gpu"] is not None)
    check_writable(BenchmarkPaths(name).files)
    with exclusive_machine():
        print_wrapped(f"{name}: {describe(serve, device)}")
        if note := split_note(MODEL, device, serve):
            print_wrapped(f"{name}: {note}")
        measurement = measure(name, params, serve, device)
    with all_or_nothing():
        write_results(measurement)


def measure(name: str, params: Params, serve: ServeSettings, device: str) -> Measurement:
    """Measure one configuration, and print a summary."""
    load = params.load
    runs_s = RUNS * len(load.users) * (load.warmup_s + load.max_s)
    until = monotonic() + max(LEAST_S, runs_s)
    index = read_index()
    photos = [Path(photo.path) for photo in index.photos]
    tested = [number for number, photo in enumerate(index.photos) if photo.split == "test"]
    bodies = request_bodies(photos, params.load.request_body)
    limit_rps = float(read_json(CEILINGS)["client_limit_rps"])
    timeout_s = params.load.timeout_s
    with running_server(MODEL, serve, device, timeout_s) as server:
        print_wrapped(f"{name}: server ready after {server.ready_s:.1f} s")
        server.pause()
        with (
            inprocess_workers(MODEL, serve, device, photos, params.baseline) as inprocess,
            load_generator(bodies, CONTENT_TYPES[params.load.request_body]) as generator,
        ):
            with running_server(MODEL, serve, "cpu", timeout_s, null_model=True) as null_server:
                null_server.pause()
                inprocess.wait_until_ready()
                null_server.resume()
                null = measure_null_server(null_server, generator, params.load)
            server.resume()
            served = measure_served(
                name,
                server,
                generator,
                params.load,
                limit_rps,
                photos=len(photos),
                tested=tested,
                until=until,
                while_paused=inprocess.measure,
            )
            baseline, rounds, threads = inprocess.rows(), inprocess.rounds(), inprocess.threads
    for row in baseline:
        print_wrapped(
            f"{name}: in-process, {row.workers} of {serve.workers_per_device} workers busy, batch "
            f"{row.batch_size}: {row.model_rps:.1f} images/s, with decoding {row.pipeline_rps:.1f}"
        )
    dtype = dtype_name(serve.precision, device)
    accuracy = compare(read_reference(MODEL.exported), served.answers, dtype, serve.preprocess)
    print_wrapped(
        f"{name}: {accuracy['photos']} photos served: agreement with full precision "
        f"{accuracy['agreement']}, accuracy {accuracy['accuracy']}, {accuracy['mismatched']} mismatched"
    )
    return Measurement(
        name, params, serve, device, threads, baseline, rounds, served, accuracy, null, limit_rps
    )


def write_results(measurement: Measurement) -> None:
    """Write every file of the configuration."""
    paths = BenchmarkPaths(measurement.name)
    served, best = measurement.served, measurement.served.best
    fastest = max(measurement.baseline, key=lambda row: row.pipeline_rps)
    if best and best.low_rps > fastest.pipeline_high_rps:
        print(f"{measurement.name}: served faster than in-process: an error of measuring", file=sys.stderr)
    write_csv(paths.samples, served.samples)
    write_rows(paths.baseline, BaselineRow, measurement.baseline)
    write_rows(paths.rounds, RoundRow, measurement.rounds)
    write_rows(paths.stages, StageRow, stage_rows(served.levels))
    write_rows(paths.batches, BatchRow, batch_rows(served.levels))
    write_rows(paths.levels, LevelRow, served.rows)
    write_json(paths.accuracy, measurement.accuracy)
    write_json(paths.run, run_facts(measurement))
    write_json(
        paths.metrics,
        {
            "throughput_rps": best.throughput_rps if best else None,
            "users": best.users if best else None,
            "p50_ms": best.p50_ms if best else None,
            "p95_ms": best.p95_ms if best else None,
            "p99_ms": best.p99_ms if best else None,
            "baseline_rps": max(row.model_rps for row in measurement.baseline),
            "efficiency": efficiency(best, measurement) if best else None,
            "cpu_percent": best.cpu_percent if best else None,
            "gpu_percent": best.gpu_percent if best else None,
            "ready_s": round(served.ready_s, 1),
            "memory_mib": round(served.memory_mib),
            "failed": served.failed,
        },
    )


def efficiency(best: LevelRow, measurement: Measurement) -> float:
    """The served rate over the pipeline in-process, at a batch size that the server can form."""
    pipeline = pipeline_as_served(measurement.baseline, measurement.serve.max_batch_size, best.users)
    return round(best.throughput_rps / pipeline.pipeline_rps, 3)


def run_facts(measurement: Measurement) -> dict[str, Any]:
    """Content of run.json: settings, machine, versions, limits of null server and load generator."""
    served, null, machine = measurement.served, measurement.null, read_json(MACHINE)
    return {
        "serve": measurement.serve.model_dump(),
        "request_body": measurement.params.load.request_body,
        "device": measurement.device,
        "dtype": dtype_name(measurement.serve.precision, measurement.device),
        "threads_per_worker": measurement.threads,
        "machine": machine["id"],
        "versions": {name: machine[name] for name in RECORDED_VERSIONS},
        "seed": measurement.params.load.seed,
        "peak_gpu_memory_mib": rounded(served.gpu_memory_mib, 0),
        "cores": available_cores(),
        "null_rps": round(null.rate.rps, 2),
        "null_low_rps": round(null.rate.low_rps, 2),
        "null_high_rps": round(null.rate.high_rps, 2),
        "null_cpu_ms": rounded(null.cpu_ms, 3),
        "null_client_cpu_ms": rounded(null.client_cpu_ms, 3),
        "client_limit_rps": measurement.client_limit_rps,
    }


def stage_rows(levels: Sequence[LevelResult]) -> list[StageRow]:
    """Mean time of a request in each stage, by level."""
    return [
        StageRow(level.row.users, stage, round(mean_ms, 3))
        for level in levels
        if level.times
        for stage, mean_ms in level.times.stage_ms.items()
    ]


def batch_rows(levels: Sequence[LevelResult]) -> list[BatchRow]:
    """Histogram of batch sizes, by level; empty buckets are left out."""
    return [
        BatchRow(level.row.users, bound, batches)
        for level in levels
        if level.times
        for bound, batches in level.times.batches.items()
        if batches
    ]
