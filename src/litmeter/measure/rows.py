"""Rows of results: a turn (plots/turns/STAGE.csv), and a compared configuration. None means unknown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from litmeter.system.files import Record


class BenchmarkMetrics(Record):
    """What a configuration does alone: metrics/benchmark/NAME.json. None: not known, or the kind has no such
    figure.

    Attributes:
        throughput_rps: rate of the level whose first turn was the fastest, from its last turn.
        lone_p50_ms: median latency of a single user.
        ready_s: seconds from start to ready.
        memory_mib: largest memory of its server's processes.
        null_rps: rate of the same server with a model that does nothing.
        photos: test photos that were answered.
        agreement, accuracy: shares of these photos with full precision's label, and with the right one.
        mismatched: answers that belong to another request.
        failed: requests that failed or timed out.
    """

    throughput_rps: float | None = None
    lone_p50_ms: float | None = None
    ready_s: float | None = None
    memory_mib: float | None = None
    null_rps: float | None = None
    photos: int | None = None
    agreement: float | None = None
    accuracy: float | None = None
    mismatched: int | None = None
    failed: int | None = None


OTHER_LOAD_PERCENT = 10.0
"""Usage of the cores by other processes, or by the hypervisor, above which a turn is disturbed."""
MOST_NAMED = 3
"""Most other processes that are named."""


@dataclass(frozen=True)
class TurnRow:
    """One turn; docs/measuring.md says what each column means.

    CPU, machine and stages are of the whole turn, rates and latencies of its measured windows. ``void`` is
    empty if the turn counts. ``stage_ms`` and ``others`` have a column for each stage and process, ``stream``
    one for each figure of answers that stream.
    """

    turn: int
    at_s: float
    seconds: float
    round: int
    subject: str
    work: str
    users: int | None = None
    offered_rps: float | None = None
    batch_size: float | None = None
    rate_rps: float | None = None
    low_rps: float | None = None
    high_rps: float | None = None
    bound_rps: float | None = None
    answers: int = 0
    sent: int = 0
    failed: int = 0
    timed_out: int = 0
    missed: float | None = None
    mean_ms: float | None = None
    p50_ms: float | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None
    stream: Mapping[str, float] = field(default_factory=dict)
    stage_ms: Mapping[str, float] = field(default_factory=dict)
    cpu_percent: float | None = None
    server_cores: float | None = None
    client_cores: float | None = None
    http_cpu_ms: float | None = None
    workers_cpu_ms: float | None = None
    manager_cpu_ms: float | None = None
    client_cpu_ms: float | None = None
    http_wait_ms: float | None = None
    workers_wait_ms: float | None = None
    manager_wait_ms: float | None = None
    client_wait_ms: float | None = None
    late_ms: float | None = None
    other_percent: float | None = None
    others: Mapping[str, float] = field(default_factory=dict)
    steal_percent: float | None = None
    cpu_mhz: float | None = None
    gpu_percent: float | None = None
    gpu_memory_mib: float | None = None
    gpu_power_w: float | None = None
    memory_mib: float | None = None
    void: str = ""
    warnings: str = ""

    @property
    def highest_rps(self) -> float:
        """The rate, or its upper bound."""
        return self.rate_rps or self.bound_rps or 0.0


@dataclass(frozen=True)
class ComparisonRow:
    """A compared configuration; docs/measuring.md says what each column means.

    If a round had no good answer, there is no rate and no ratio, and ``highest_rps`` and ``ratio_high`` are
    bounds. Intervals are 95% intervals; those of ratio and share are simultaneous over all configurations.
    """

    experiment: str
    users: int
    rate_rps: float | None
    lowest_rps: float | None
    highest_rps: float | None
    ratio: float | None
    ratio_low: float | None
    ratio_high: float | None
    share_of_fastest: float | None
    share_low: float | None
    share_high: float | None
    rank: int | None
    p50_ms: float | None
    p50_low_ms: float | None
    p50_high_ms: float | None
    p95_ms: float | None
    p95_low_ms: float | None
    p95_high_ms: float | None
    answers: int
    failed: int
    rounds: int
    turns: int
    objective_ms: float | None = None
    earlier: str = ""
    model_rps: float | None = None
    pipeline_rps: float | None = None
    efficiency: float | None = None
    efficiency_low: float | None = None
    efficiency_high: float | None = None
    stream: Mapping[str, float] = field(default_factory=dict)

    @property
    def fails(self) -> bool:
        """Whether its server fails requests, see ``fails``."""
        return fails(self.failed, self.answers)


FAILING = 0.01
"""Share of failed requests above which a server has no rank and no percentiles: those of its good answers,
which have fewer requests beside them than others' have."""


def fails(failed: int, answers: int) -> bool:
    """Whether more requests failed than FAILING allows beside so many good answers."""
    return failed > FAILING * (failed + answers)


def named_others(cores: Mapping[str, float]) -> str:
    """Names of the busiest other processes; in a container none is visible."""
    return ", ".join(busiest(cores)) or "not visible from here"


def busiest(cores: Mapping[str, float]) -> list[str]:
    """The processes that used most, at most MOST_NAMED."""
    return sorted(cores, key=lambda name: -cores[name])[:MOST_NAMED]
