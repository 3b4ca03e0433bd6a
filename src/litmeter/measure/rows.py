"""The rows of results: a turn, in plots/turns/STAGE.csv, and a compared configuration. None is unknown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

OTHER_LOAD_PERCENT = 10.0
"""Of the cores, used by other processes or by the hypervisor, above which a turn is disturbed."""
MOST_NAMED = 3
"""Of other processes."""


@dataclass(frozen=True)
class TurnRow:
    """One turn; docs/measuring.md says what each column means.

    CPU, machine and stages are of the whole turn, rates and latencies of its measured windows. ``stage_ms``,
    ``batches`` and ``others`` are JSON. ``void`` is empty where the turn counts.
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
    stage_ms: str = "{}"
    batches: str = "{}"
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
    others: str = "{}"
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
        """The rate, or what it was below."""
        return self.rate_rps or self.bound_rps or 0.0


@dataclass(frozen=True)
class ComparisonRow:
    """One configuration in plots/comparison.csv; docs/measuring.md says what each column means.

    Where a round had no good answer, ``highest_rps`` and ``ratio_high`` are bounds, and there is no rate and
    no ratio. Intervals are 95% ones, those of ratio and share simultaneous over all configurations.
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


def named_others(cores: Mapping[str, float]) -> str:
    """Names of the busiest other processes, by the cores that they used; in a container none is visible."""
    return ", ".join(busiest(cores)) or "not visible from here"


def busiest(cores: Mapping[str, float]) -> list[str]:
    """Those that used most, MOST_NAMED at most."""
    return sorted(cores, key=lambda name: -cores[name])[:MOST_NAMED]
