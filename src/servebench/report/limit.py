"""What limits a configuration, and the words and thresholds that its causes share."""

from __future__ import annotations

from dataclasses import dataclass

from servebench.benchmark.rows import LevelRow
from servebench.report.bounds import Bound
from servebench.report.results import Result

CORE_BUSY = 0.9
"""Cores in use from which a process with one busy thread has no more to give."""
CPU_FULL_PERCENT = 80.0
"""Of the machine: even a saturated server leaves the cores gaps between one batch and the next."""
GPU_FULL_PERCENT = 90.0


@dataclass(frozen=True)
class Limit:
    """What limits a configuration.

    Attributes:
        share: what the bound below keeps of the one above.
        parameter: the key of params.yaml that would move it, None where there is none.
        text: sentences with the figures that prove it.
    """

    cause: str
    share: float | None
    parameter: str | None
    text: str


@dataclass(frozen=True)
class Step:
    """Two neighbouring bounds."""

    upper: Bound
    lower: Bound

    @property
    def share(self) -> float:
        """What the lower keeps of the upper."""
        return self.lower.rate_rps / self.upper.rate_rps

    def of(self, whose: str, unit: str = "images/s") -> str:
        """Rate and share: "50.0 images/s, 0.50 of the model's 100.0"."""
        return f"{self.lower.rate_rps:,.1f} {unit}, {self.share:.2f} of {whose} {self.upper.rate_rps:,.1f}"


def idle(level: LevelRow) -> bool:
    """Whether the CPU and, where there is one, the GPU are known to have room."""
    cpu, gpu = level.cpu_percent, level.gpu_percent
    return cpu is not None and cpu < CPU_FULL_PERCENT and (gpu is None or gpu < GPU_FULL_PERCENT)


def more_workers(result: Result) -> str:
    """That more workers would help, and what else it takes where their threads outnumber the cores."""
    threads, workers = result.run["threads_per_worker"], result.serve.workers_per_device
    text = "more `workers_per_device` move it"
    if result.run["device"] == "cpu" and threads * (workers + 1) > result.run["cores"]:
        text += f", with fewer threads than {threads} in each (`threads_per_worker`)"
    return text
