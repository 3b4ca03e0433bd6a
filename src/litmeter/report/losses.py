"""Losses from bound to bound, the diagnosis of a configuration, and thresholds that its rules share."""

from __future__ import annotations

import math
from dataclasses import dataclass

from litmeter.benchmark.rows import LevelRow
from litmeter.report.bounds import Bound
from litmeter.report.results import Result

CORE_BUSY = 0.9
"""Cores in use above which a process with one busy thread is at its limit."""
CPU_FULL_PERCENT = 80.0
"""Of the machine: even a saturated server leaves cores idle between one batch and the next."""
GPU_FULL_PERCENT = 90.0


@dataclass(frozen=True)
class Diagnosis:
    """What limits a configuration.

    Attributes:
        cause: the name of a cause; of several, "A, then B" for the larger loss first, "A or B" where it
            is not resolved which.
        share: the lower bound over the upper one, at the loss that the first cause explains.
        parameter: the key of params.yaml that would change the rate, None where there is none; of the first
            cause.
        text: sentences with the figures that are evidence of the cause.
    """

    cause: str
    share: float | None
    parameter: str | None
    text: str


@dataclass(frozen=True)
class Loss:
    """The loss from a bound to the next.

    Attributes:
        upper, lower: the two, of which the lower one knows its share of the upper one.
    """

    upper: Bound
    lower: Bound

    @property
    def share(self) -> float:
        """The lower rate over the upper one."""
        return self.lower.rate_rps / self.upper.rate_rps if self.lower.share is None else self.lower.share

    @property
    def resolved(self) -> bool:
        """Whether there is a loss beyond the intervals."""
        return self.highest_share < 1

    def ties_with(self, other: Loss) -> bool:
        """Whether the intervals of the two shares overlap, so that neither loss is known to be larger."""
        return self.lowest_share <= other.highest_share and other.lowest_share <= self.highest_share

    @property
    def lowest_share(self) -> float:
        """The share's lower end."""
        if self.lower.share_low is not None:
            return self.lower.share_low
        return self.lower.lowest_rps / self.upper.highest_rps

    @property
    def highest_share(self) -> float:
        """The share's upper end; infinite where the upper bound's interval begins at 0."""
        if self.lower.share_high is not None:
            return self.lower.share_high
        return self.lower.highest_rps / self.upper.lowest_rps if self.upper.lowest_rps > 0 else math.inf

    def describe(self, owner: str, unit: str = "images/s") -> str:
        """Rate and share, as "50.0 images/s, 0.50 of the model's 100.0" for the owner "the model's"."""
        return f"{self.lower.rate_rps:,.1f} {unit}, {self.share:.2f} of {owner} {self.upper.rate_rps:,.1f}"


def has_idle_hardware(level: LevelRow) -> bool:
    """Whether CPU and GPU (where there is one) are known to be used below their thresholds."""
    cpu, gpu = level.cpu_percent, level.gpu_percent
    return cpu is not None and cpu < CPU_FULL_PERCENT and (gpu is None or gpu < GPU_FULL_PERCENT)


def more_workers_advice(result: Result) -> str:
    """Advice to start more workers, with fewer threads each where they would outnumber the cores."""
    threads, workers = result.run["threads_per_worker"], result.serve.workers_per_device
    text = "more `workers_per_device` move it"
    if result.run["device"] == "cpu" and threads > 1 and threads * (workers + 1) > result.run["cores"]:
        text += f", with fewer threads than {threads} in each (`threads_per_worker`)"
    return text
