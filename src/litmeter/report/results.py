"""Results of all configurations, read from their files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from litmeter.errors import ReportError
from litmeter.measure.rows import BaselineRow, BatchRow, LevelRow, RoundRow, StageRow, check_no_orphans
from litmeter.params import Params, ServeSettings
from litmeter.paths import BenchmarkPaths
from litmeter.stats.comparison import Ratio, ratio
from litmeter.system.files import read_json, read_rows

METRICS_KEYS = (
    *("throughput_rps", "users", "p50_ms", "p95_ms", "p99_ms"),
    *("efficiency", "cpu_percent", "gpu_percent", "ready_s", "memory_mib", "failed"),
)
RUN_KEYS = (
    *("cores", "device", "dtype", "threads_per_worker"),
    *("null_rps", "null_low_rps", "null_high_rps", "null_cpu_ms", "null_client_cpu_ms"),
)
"""Keys of metrics/benchmark/NAME.json and run.json that the report reads."""


@dataclass(frozen=True)
class Result:
    """All results of one configuration."""

    name: str
    serve: ServeSettings
    metrics: Mapping[str, Any]
    run: Mapping[str, Any]
    levels: Sequence[LevelRow]
    baseline: Sequence[BaselineRow]
    rounds: Sequence[RoundRow]
    stages: Sequence[StageRow]
    batches: Sequence[BatchRow]
    accuracy: Mapping[str, Any]

    @property
    def rps(self) -> float | None:
        """Throughput of the best level, None where there is none."""
        rps: float | None = self.metrics["throughput_rps"]
        return rps

    @property
    def best(self) -> LevelRow | None:
        """The best level, which is valid if any level is; None where requests failed at every level."""
        return next((level for level in self.levels if level.users == self.metrics["users"]), None)

    @property
    def model(self) -> BaselineRow:
        """The row of the batch size at which the model alone is fastest in-process."""
        return max(self.baseline, key=lambda row: row.model_rps)

    @property
    def pipeline(self) -> BaselineRow:
        """The row of the batch size at which decode, preprocess and model are fastest in-process."""
        return max(self.baseline, key=lambda row: row.pipeline_rps)

    @property
    def pipeline_share(self) -> Ratio | None:
        """Rate of the pipeline over that of the model, within rounds; None where there are too few."""
        sizes = {"model": self.model.batch_size, "pipeline": self.pipeline.batch_size}
        rates = {
            work: [row.rate_rps for row in self.rounds if (row.work, row.batch_size) == (work, size)]
            for work, size in sizes.items()
        }
        return ratio(rates, "pipeline", "model", reference="model") if len(rates["model"]) > 1 else None

    def stage_ms(self, users: int) -> dict[str, float]:
        """Mean time of a request in each stage at one level, in the order of the stages."""
        return {row.stage: row.mean_ms for row in self.stages if row.users == users}

    def model_ms(self, batch_size: float) -> float:
        """Wall time of one batch in one in-process worker.

        Interpolated linearly between the measured sizes, and proportional to the size above the largest.
        """
        rows = sorted(self.baseline, key=lambda row: row.batch_size)
        last = rows[-1]
        if batch_size > last.batch_size:
            return last.model_ms * batch_size / last.batch_size
        return float(np.interp(batch_size, [r.batch_size for r in rows], [r.model_ms for r in rows]))

    def pipeline_rps(self, batch_size: float) -> float:
        """Rate of the pipeline in-process, interpolated linearly, and constant outside the measured sizes."""
        rows = sorted(self.baseline, key=lambda row: row.batch_size)
        sizes, rates = [row.batch_size for row in rows], [row.pipeline_rps for row in rows]
        return float(np.interp(batch_size, sizes, rates))


def read_results(params: Params) -> list[Result]:
    """Read the results of every configuration of ``params``, in its order.

    Raises:
        ReportError: a result is missing or malformed, or belongs to no configuration of params.yaml.
    """
    configurations = params.configurations()
    check_no_orphans(configurations)
    return [_read_result(name, serve) for name, serve in configurations.items()]


def _read_result(name: str, serve: ServeSettings) -> Result:
    paths = BenchmarkPaths(name)
    try:
        return Result(
            name=name,
            serve=serve,
            metrics=_read_with(paths.metrics, METRICS_KEYS),
            run=_read_with(paths.run, RUN_KEYS),
            levels=read_rows(paths.levels, LevelRow),
            baseline=read_rows(paths.baseline, BaselineRow),
            rounds=read_rows(paths.rounds, RoundRow),
            stages=read_rows(paths.stages, StageRow),
            batches=read_rows(paths.batches, BatchRow),
            accuracy=read_json(paths.accuracy),
        )
    except OSError as error:
        raise ReportError(f"{error.filename}: {error.strerror}; `dvc repro` makes it") from error
    except (KeyError, ValueError) as error:
        raise ReportError(f"results of {name}: malformed ({error!r})") from error


def _read_with(path: Path, keys: Sequence[str]) -> dict[str, Any]:
    """Content of a JSON file; raise KeyError if one of ``keys`` is missing."""
    content = read_json(path)
    return content | {key: content[key] for key in keys}
