"""The rows of a configuration's result tables, plots/benchmark/NAME/*.csv; None is unknown."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from litmeter.errors import ReportError
from litmeter.paths import BenchmarkPaths


@dataclass(frozen=True)
class LevelRow:
    """One concurrency level, in levels.csv.

    Attributes:
        throughput_rps: good answers per second, with a 95% interval (``low_rps``, ``high_rps``).
        first_rps: throughput of the level's runs before, their mean; the interval contains it.
        mean_ms: latency of the good requests that ended in the window; percentiles with 95% intervals.
        samples: number of those requests.
        windows, window_s: number of all windows, and seconds of those that are reported.
        sent, ok, failed, timed_out: requests of the whole level: sent = ok + failed + timed_out.
        batch_size: mean number of requests in a batch.
        cpu_percent, gpu_percent: of the machine's cores, and of the first CUDA device.
        server_cores, client_cores: CPU seconds per second of the server's and the load generator's processes.
        http_cpu_ms, workers_cpu_ms, manager_cpu_ms, client_cpu_ms: CPU time per request by process.
        client_late_ms: 99th percentile of the delay from when a request was due until it was sent.
        client_limit_share: throughput over the load generator's rate against an echo server.
        other_percent, steal_percent: CPU that other processes and the hypervisor took, of the machine.
        cpu_mhz: mean frequency of the cores.
        gpu_memory_mib, gpu_power_w: of the first CUDA device: highest, and mean.
        invalid_reason: why the level is not valid, empty where it is.
        warnings: what else the machine did meanwhile.
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
    http_cpu_ms: float | None
    workers_cpu_ms: float | None
    manager_cpu_ms: float | None
    client_cpu_ms: float | None
    client_late_ms: float | None
    client_limit_share: float | None
    other_percent: float | None
    steal_percent: float | None
    cpu_mhz: float | None
    gpu_percent: float | None
    gpu_memory_mib: float | None
    gpu_power_w: float | None
    invalid_reason: str
    warnings: str

    @property
    def valid(self) -> bool:
        """Whether the level's figures can be relied on."""
        return not self.invalid_reason


@dataclass(frozen=True)
class BaselineRow:
    """In-process rates at one batch size, in baseline.csv: images per second of all busy workers together.

    Attributes:
        workers: number of busy workers.
        model_rps: rate of the model alone, with a 95% interval.
        pipeline_rps: rate with decode and preprocess, with a 95% interval.
        pipeline_slowest_rps, pipeline_fastest_rps: of a round, as the machine may change.
        pipeline_cpu_ms: CPU time per image, on one thread: more spin while they wait for each other.
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
    pipeline_slowest_rps: float
    pipeline_fastest_rps: float
    pipeline_cpu_ms: float
    model_ms: float


@dataclass(frozen=True)
class RoundRow:
    """The in-process rate of one kind of work in one round, in rounds.csv.

    Attributes:
        round: from 0; the works of a round follow each other, so that their ratio is free of drift.
        work: "model" or "pipeline".
    """

    round: int
    work: str
    batch_size: int
    rate_rps: float


def pipeline_as_served(baseline: Sequence[BaselineRow], max_batch_size: int, users: int) -> BaselineRow:
    """The fastest pipeline in-process among the batch sizes that a server can form.

    A batch holds no more than ``max_batch_size`` requests, and no more than there are users. Where no
    such size was measured, it is the smallest that was.
    """
    largest = max(min(max_batch_size, users), min(row.batch_size for row in baseline))
    return max((row for row in baseline if row.batch_size <= largest), key=lambda row: row.pipeline_rps)


@dataclass(frozen=True)
class StageRow:
    """Mean time of a request in one of the server's stages at one level, in stages.csv."""

    users: int
    stage: str
    mean_ms: float


@dataclass(frozen=True)
class BatchRow:
    """A bucket of a level's histogram of batch sizes, in batches.csv.

    Attributes:
        up_to: the largest size in the bucket; the bucket begins above that of the last row.
        batches: number of batches.
    """

    users: int
    up_to: str
    batches: int


@dataclass(frozen=True)
class TurnRow:
    """The measurement of one configuration in one round of the comparison, in plots/comparison_turns.csv.

    Attributes:
        round: from 0; later runs count on.
        rate_rps: good answers per second, None where there was none.
        answers, failed: good answers, and requests that were refused, failed or timed out.
        bound_rps: where there was no good answer, what the rate was below.
        pipeline_rps: images per second of the pipeline in-process in the same round, right before or after;
            None where it was not measured.
    """

    round: int
    users: int
    experiment: str
    rate_rps: float | None
    answers: int
    failed: int
    bound_rps: float | None = None
    pipeline_rps: float | None = None


@dataclass(frozen=True)
class ComparisonRow:
    """One configuration at one load of the comparison, in plots/comparison.csv.

    Attributes:
        rate_rps: geometric mean over rounds, with the lowest and the highest rate of a round. None with the
            lowest where a round had no good answer: the highest is a bound then.
        ratio: rate over the reference's, with a simultaneous 95% interval. Where a round had no good answer,
            ``ratio_high`` alone: the ratio is below it.
        rank: 1 for the fastest and all that do not differ from it; None at loads that are not compared, and
            with the interval for a configuration with few rounds.
        p50_ms, p95_ms: latency over all rounds, with 95% intervals.
        failed: requests that were refused, failed or timed out.
        rounds: number of rounds in which it was measured.
        earlier: whether an earlier run measured it, and nothing that it depends on has changed since.
        pipeline_rps: of the pipeline in-process, geometric mean over the rounds that have it; None for none.
        efficiency: served rate over that of the pipeline, within these rounds, with a 95% interval.
    """

    users: int
    experiment: str
    rate_rps: float | None
    lowest_rps: float | None
    highest_rps: float | None
    ratio: float | None
    ratio_low: float | None
    ratio_high: float | None
    rank: int | None
    p50_ms: float | None
    p50_low_ms: float | None
    p50_high_ms: float | None
    p95_ms: float | None
    p95_low_ms: float | None
    p95_high_ms: float | None
    failed: int
    rounds: int
    earlier: bool
    pipeline_rps: float | None = None
    efficiency: float | None = None
    efficiency_low: float | None = None
    efficiency_high: float | None = None


def check_no_orphans(known: Collection[str]) -> None:
    """Raise ReportError, with the command to remove them, where there are results of unknown names."""
    orphans = sorted(names_with_results() - set(known))
    if orphans:
        paths = [str(path) for name in orphans for path in BenchmarkPaths(name).outputs if path.exists()]
        raise ReportError(
            f"there are results of {', '.join(orphans)}, but params.yaml has only {', '.join(known)}; "
            f"remove them: rm -r {' '.join(paths)}"
        )


def names_with_results() -> set[str]:
    """Names of all configurations that have results in the working tree."""
    names = {path.stem for kind in ("benchmark", "accuracy") for path in Path("metrics", kind).glob("*.json")}
    names |= {path.name for path in Path("plots/benchmark").glob("*") if path.is_dir()}
    return {name for name in names if not name.startswith(".")}
