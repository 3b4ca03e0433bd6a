"""Rates of measurement windows and of their parts; without scipy, for processes that are to start quickly."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

BLOCKS = 10
"""Equal parts of a window, whose spread gives the interval of the whole window's rate or percentile."""


def work_done(start: Floats, end: Floats, opened: float, closed: float) -> float:
    """Units of work (requests, batches) done in a window; one that straddles an edge counts in proportion.

    The answers of a batch end together, so a count of those that ended inside the window would be off
    by up to a batch at either edge. ``start`` and ``end`` are seconds, ``end > start``.
    """
    inside = np.minimum(end, closed) - np.maximum(start, opened)
    return float(np.sum(np.clip(inside, 0.0, None) / (end - start)))


def block_rates(start: Floats, end: Floats, opened: float, closed: float) -> Floats:
    """Units of work per second in each of BLOCKS equal parts of a window."""
    edges = np.linspace(opened, closed, BLOCKS + 1)
    return np.array(
        [work_done(start, end, low, high) / (high - low) for low, high in itertools.pairwise(edges)]
    )
