"""Throughput and latency of a window in which all users were busy."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

SAMPLES_NEEDED = {50: 1, 95: 130, 99: 662}
"""Fewest samples that can support a percentile: the binomial floor that MLPerf LoadGen uses
(https://github.com/mlcommons/inference, loadgen/early_stopping.cc), at 95% and 99% confidence of
its own tolerance."""
SUBWINDOWS = 10
T_975_9 = 2.262157162740992
"""97.5% quantile of Student's t with SUBWINDOWS - 1 degrees of freedom."""


@dataclass(frozen=True)
class Throughput:
    """Requests (or images) per second, with a 95% interval; None where it cannot be had."""

    rps: float
    low_rps: float
    high_rps: float


def work_done(start: Floats, end: Floats, opened: float, closed: float) -> float:
    """How many units of work fell into a window; one that straddles an edge counts by its part inside.

    Answers come in clumps of a batch, so counting those that ended inside the window is off by up to
    a clump at either edge; counting parts is not. ``start`` and ``end`` are seconds, ``end > start``.
    """
    inside = np.minimum(end, closed) - np.maximum(start, opened)
    return float(np.sum(np.clip(inside, 0.0, None) / (end - start)))


def throughput(start: Floats, end: Floats, opened: float, closed: float) -> Throughput:
    """Rate of the good requests of one window, and its interval.

    The interval comes from the means of ten equal parts of the window (method of batch means, with
    Student's t): consecutive requests share batches and are not independent, whole parts nearly are.
    """
    edges = np.linspace(opened, closed, SUBWINDOWS + 1)
    rates = np.array(
        [work_done(start, end, low, high) / (high - low) for low, high in itertools.pairwise(edges)]
    )
    mean = float(rates.mean())
    spread = T_975_9 * float(rates.std(ddof=1)) / math.sqrt(SUBWINDOWS)
    return Throughput(mean, max(0.0, mean - spread), mean + spread)


def percentile(latency: Floats, percent: int) -> float | None:
    """A latency percentile, or None where there are too few samples to support it."""
    if len(latency) < SAMPLES_NEEDED[percent]:
        return None
    return float(np.percentile(latency, percent))
