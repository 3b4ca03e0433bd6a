"""The stopping rule of a level: it ends when its last windows agree.

The rule of Triton's perf_analyzer (docs/inference_load_modes and measurement stabilisation): over the
last three windows, throughput and latency each stay within 10% of their mean. Windows of fewer than 100
answers differ by more than that even if the server is steady, so they may: by the share that one standard
deviation of a Poisson count is of it.
"""

from __future__ import annotations

import itertools
import math

import numpy as np

from litmeter.stats.windows import Floats, work_done

WINDOWS = 3
"""Windows that have to agree, and that are reported together."""
TOLERANCE = 0.1
"""Largest deviation from the mean, as a share of it, in windows of 100 answers or more."""


def steady(rates: Floats, latencies: Floats, answers: int) -> bool:
    """Whether each window is near the mean of all, in rate and in mean latency.

    Args:
        answers: in the window with the fewest.
    """
    tolerance = max(TOLERANCE, 1 / math.sqrt(max(answers, 1)))
    return bool(all(spread(values) <= tolerance for values in (rates, latencies)))


def fewest_answers(end: Floats, edges: Floats) -> int:
    """Number of requests that ended in the window with the fewest of those between ``edges``."""
    return int(np.histogram(end, edges)[0].min())


def spread(values: Floats) -> float:
    """Largest deviation from the mean, as a share of it; infinite where a window has no value."""
    mean = float(values.mean())
    if not np.isfinite(mean) or mean <= 0:
        return float("inf")
    return float(np.abs(values - mean).max()) / mean


def window_means(start: Floats, end: Floats, edges: Floats) -> tuple[Floats, Floats]:
    """Rate (1/s) and mean latency (s) in each window between ``edges``, of good requests.

    A window in which nothing ended has no latency (NaN).
    """
    pairs = list(itertools.pairwise(edges))
    rates = [work_done(start, end, low, high) / (high - low) for low, high in pairs]
    ended = [(end > low) & (end <= high) for low, high in pairs]
    latencies = [(end[mask] - start[mask]).mean() if mask.any() else float("nan") for mask in ended]
    return np.array(rates), np.array(latencies)
