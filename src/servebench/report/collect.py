"""The results of all configurations, read back and checked to belong together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from servebench.errors import ReportError
from servebench.params import Params, ServeSettings
from servebench.paths import BenchmarkPaths, existing_results
from servebench.results import read_csv, read_json

Number = float | None


@dataclass(frozen=True)
class Level:
    """One concurrency level, as plots/benchmark/<experiment>.csv has it."""

    users: int
    throughput_rps: float
    low_rps: float
    high_rps: float
    p50_ms: Number
    p95_ms: Number
    p99_ms: Number
    cpu_percent: Number
    gpu_percent: Number
    valid: bool
    why: str


@dataclass(frozen=True)
class Baseline:
    """One batch size, as plots/baseline/<experiment>.csv has it."""

    batch_size: int
    model_rps: float
    pipeline_rps: float


@dataclass(frozen=True)
class Result:
    """All that is known of one configuration."""

    name: str
    serve: ServeSettings
    metrics: Mapping[str, Any]
    meta: Mapping[str, Any]
    levels: Sequence[Level]
    baseline: Sequence[Baseline]

    @property
    def rps(self) -> Number:
        """Throughput of the best level, None where none was valid."""
        rps: Number = self.metrics["throughput_rps"]
        return rps

    @property
    def best(self) -> Level | None:
        """The best level."""
        return next((level for level in self.levels if level.users == self.metrics["users"]), None)

    @property
    def pipeline_rps(self) -> float:
        """Decode, preprocess and model in-process, at the best batch size."""
        return max(row.pipeline_rps for row in self.baseline)


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
                f"remove its files: git rm -f 'metrics/benchmark/{name}.*' 'plots/*/{name}.*'"
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
        p50_ms=_number(row["p50_ms"]),
        p95_ms=_number(row["p95_ms"]),
        p99_ms=_number(row["p99_ms"]),
        cpu_percent=_number(row["cpu_percent"]),
        gpu_percent=_number(row["gpu_percent"]),
        valid=row["valid"] == "True",
        why=row["why"],
    )


def _baseline(row: Mapping[str, str]) -> Baseline:
    return Baseline(int(row["batch_size"]), float(row["model_rps"]), float(row["pipeline_rps"]))
