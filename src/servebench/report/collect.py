"""The results of all configurations, read back and checked to belong together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from servebench.errors import ReportError
from servebench.params import Params, ServeSettings
from servebench.paths import BenchmarkPaths, existing_results
from servebench.results import read_csv, read_json

Number = float | None


@dataclass(frozen=True)
class Level:
    """One concurrency level, as plots/benchmark/<experiment>.csv has it; None is unknown.

    Attributes:
        first_rps: throughput when first measured, where the level was measured again.
        batch_size: mean.
        api_cpu_ms, manager_cpu_ms, workers_cpu_ms, client_cpu_ms: CPU time per request.
        other_percent, steal_percent: CPU that other processes and the hypervisor took, of the machine.
        client_share: throughput over what the load generator reaches against an instant server.
        notes: what else went on in the machine meanwhile.
    """

    users: int
    throughput_rps: float
    low_rps: float
    high_rps: float
    first_rps: Number
    mean_ms: Number
    p50_ms: Number
    p95_ms: Number
    p95_low_ms: Number
    p95_high_ms: Number
    p99_ms: Number
    batch_size: Number
    cpu_percent: Number
    gpu_percent: Number
    api_cpu_ms: Number
    manager_cpu_ms: Number
    workers_cpu_ms: Number
    client_cpu_ms: Number
    other_percent: Number
    steal_percent: Number
    client_share: Number
    valid: bool
    why: str
    notes: str


@dataclass(frozen=True)
class Baseline:
    """One batch size, as plots/baseline/<experiment>.csv has it.

    Attributes:
        workers: how many were busy.
        pipeline_before_rps, pipeline_after_rps: in the round before the load, and in the one after.
        pipeline_cpu_ms: CPU time per image.
        model_ms: wall time of one batch in one worker, model alone.
    """

    batch_size: int
    workers: int
    model_rps: float
    model_low_rps: float
    model_high_rps: float
    pipeline_rps: float
    pipeline_low_rps: float
    pipeline_high_rps: float
    pipeline_before_rps: float
    pipeline_after_rps: float
    pipeline_cpu_ms: float
    model_ms: float


@dataclass(frozen=True)
class StageTime:
    """Mean time of a request in one stage at one level."""

    users: int
    stage: str
    mean_ms: float


@dataclass(frozen=True)
class BatchBucket:
    """How many batches of one level were larger than the bucket before, and at most ``up_to``."""

    users: int
    up_to: str
    batches: int


@dataclass(frozen=True)
class Result:
    """All that is known of one configuration."""

    name: str
    serve: ServeSettings
    metrics: Mapping[str, Any]
    meta: Mapping[str, Any]
    levels: Sequence[Level]
    baseline: Sequence[Baseline]
    stages: Sequence[StageTime]
    batches: Sequence[BatchBucket]
    answers: Mapping[str, Any]

    @property
    def rps(self) -> Number:
        """Throughput of the best level, None where there is none."""
        rps: Number = self.metrics["throughput_rps"]
        return rps

    @property
    def best(self) -> Level | None:
        """The best level; it is not valid where no level is."""
        return next((level for level in self.levels if level.users == self.metrics["users"]), None)

    @property
    def model(self) -> Baseline:
        """The batch size at which the model alone is fastest in-process."""
        return max(self.baseline, key=lambda row: row.model_rps)

    @property
    def pipeline(self) -> Baseline:
        """The batch size at which decode, preprocess and model are fastest in-process."""
        return max(self.baseline, key=lambda row: row.pipeline_rps)

    def stage_ms(self, users: int) -> dict[str, float]:
        """Mean time of a request in each stage at one level, in the order of the stages."""
        return {row.stage: row.mean_ms for row in self.stages if row.users == users}

    def model_ms(self, batch_size: float) -> float:
        """Wall time of one batch in one in-process worker, between and beyond those measured.

        Linear between the measured sizes, and proportional to the size beyond the largest.
        """
        rows = sorted(self.baseline, key=lambda row: row.batch_size)
        last = rows[-1]
        if batch_size > last.batch_size:
            return last.model_ms * batch_size / last.batch_size
        return float(np.interp(batch_size, [r.batch_size for r in rows], [r.model_ms for r in rows]))

    def pipeline_at(self, batch_size: float) -> float:
        """Images/s of the pipeline in-process, linear between the measured sizes and level beyond."""
        rows = sorted(self.baseline, key=lambda row: row.batch_size)
        sizes, rates = [row.batch_size for row in rows], [row.pipeline_rps for row in rows]
        return float(np.interp(batch_size, sizes, rates))


def collect(params: Params) -> list[Result]:
    """The results of every configuration of ``params``, in its order.

    Raises:
        ReportError: a result is missing, or there is one of an experiment that params.yaml has not.
    """
    known = params.configurations()
    for path in existing_results():
        name = path.name.split(".")[0]
        if name not in known:
            raise ReportError(
                f"{path} is of an experiment that params.yaml does not have ({', '.join(known)}); "
                f"remove its files: git rm -f 'metrics/*/{name}.*' 'plots/*/{name}.*'"
            )
    return [_result(name, serve) for name, serve in known.items()]


def _result(name: str, serve: ServeSettings) -> Result:
    paths = BenchmarkPaths(name)
    try:
        return Result(
            name=name,
            serve=serve,
            metrics=read_json(paths.metrics),
            meta=read_json(paths.meta),
            levels=[_level(row) for row in read_csv(paths.levels)],
            baseline=[_baseline(row) for row in read_csv(paths.baseline)],
            stages=[
                StageTime(int(row["users"]), row["stage"], float(row["mean_ms"]))
                for row in read_csv(paths.stages)
            ],
            batches=[
                BatchBucket(int(row["users"]), row["up_to"], int(row["batches"]))
                for row in read_csv(paths.batches)
            ],
            answers=read_json(paths.answers),
        )
    except OSError as error:
        raise ReportError(f"{error.filename}: {error.strerror}; `dvc repro` makes it") from error
    except (KeyError, ValueError) as error:
        raise ReportError(f"results of {name}: malformed ({error!r})") from error


def _number(text: str) -> Number:
    return float(text) if text else None


def _level(row: Mapping[str, str]) -> Level:
    return Level(
        users=int(row["users"]),
        throughput_rps=float(row["throughput_rps"]),
        low_rps=float(row["low_rps"]),
        high_rps=float(row["high_rps"]),
        first_rps=_number(row["first_rps"]),
        mean_ms=_number(row["mean_ms"]),
        p50_ms=_number(row["p50_ms"]),
        p95_ms=_number(row["p95_ms"]),
        p95_low_ms=_number(row["p95_low_ms"]),
        p95_high_ms=_number(row["p95_high_ms"]),
        p99_ms=_number(row["p99_ms"]),
        batch_size=_number(row["batch_size"]),
        cpu_percent=_number(row["cpu_percent"]),
        gpu_percent=_number(row["gpu_percent"]),
        api_cpu_ms=_number(row["api_cpu_ms"]),
        manager_cpu_ms=_number(row["manager_cpu_ms"]),
        workers_cpu_ms=_number(row["workers_cpu_ms"]),
        client_cpu_ms=_number(row["client_cpu_ms"]),
        other_percent=_number(row["other_percent"]),
        steal_percent=_number(row["steal_percent"]),
        client_share=_number(row["client_share"]),
        valid=row["valid"] == "True",
        why=row["why"],
        notes=row["notes"],
    )


def _baseline(row: Mapping[str, str]) -> Baseline:
    return Baseline(
        batch_size=int(row["batch_size"]),
        workers=int(row["workers"]),
        model_rps=float(row["model_rps"]),
        model_low_rps=float(row["model_low_rps"]),
        model_high_rps=float(row["model_high_rps"]),
        pipeline_rps=float(row["pipeline_rps"]),
        pipeline_low_rps=float(row["pipeline_low_rps"]),
        pipeline_high_rps=float(row["pipeline_high_rps"]),
        pipeline_before_rps=float(row["pipeline_before_rps"]),
        pipeline_after_rps=float(row["pipeline_after_rps"]),
        pipeline_cpu_ms=float(row["pipeline_cpu_ms"]),
        model_ms=float(row["model_ms"]),
    )
