"""Throughput and latency of a window in which everybody was busy."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit

Floats = npt.NDArray[np.float64]

SAMPLES_NEEDED = {50: 1, 95: 130, 99: 662}
"""Fewest samples that can support a percentile: the binomial floor that MLPerf LoadGen uses
(https://github.com/mlcommons/inference, loadgen/early_stopping.cc)."""
PARTS = 10
"""Equal parts of a window whose rates tell how far the whole window's rate can be trusted."""
RESAMPLES = 400


@dataclass(frozen=True)
class Throughput:
    """Requests (or images) per second, with a 95% interval."""

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


def part_rates(start: Floats, end: Floats, opened: float, closed: float) -> Floats:
    """Units of work per second in each of PARTS equal parts of a window."""
    edges = np.linspace(opened, closed, PARTS + 1)
    return np.array(
        [work_done(start, end, low, high) / (high - low) for low, high in itertools.pairwise(edges)]
    )


def throughput(rates: Floats) -> Throughput:
    """The mean of the parts of one window, or of two, and its interval.

    The interval is that of the method of batch means, with Student's t: consecutive requests share
    batches and are not independent, whole parts of a window nearly are.
    """
    mean = float(rates.mean())
    spread = float(stdtrit(len(rates) - 1, 0.975)) * float(rates.std(ddof=1)) / math.sqrt(len(rates))
    return Throughput(mean, max(0.0, mean - spread), mean + spread)


def percentile(latency: Floats, percent: int) -> float | None:
    """A latency percentile, or None where there are too few samples to support it."""
    if len(latency) < SAMPLES_NEEDED[percent]:
        return None
    return float(np.percentile(latency, percent))


def percentile_interval(latency: Floats, ended: Floats, percent: int) -> tuple[float, float] | None:
    """95% interval of a latency percentile, None where there is no percentile.

    By bootstrap over the PARTS parts of the window in which the requests ``ended``: whole parts are
    drawn again with replacement, since requests of one batch share their fate and resampling them
    one by one would claim too much. The same samples give the same interval.
    """
    if percentile(latency, percent) is None:
        return None
    blocks = np.array_split(latency[np.argsort(ended)], PARTS)
    blocks = [block for block in blocks if len(block)]
    draws = np.random.default_rng(0).integers(len(blocks), size=(RESAMPLES, len(blocks)))
    found = [np.percentile(np.concatenate([blocks[k] for k in draw]), percent) for draw in draws]
    low, high = np.percentile(found, [2.5, 97.5])
    return float(low), float(high)
