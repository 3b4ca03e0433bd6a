"""Ratio of two quantities that were measured alternately, round by round, with its interval.

A machine that slows down for minutes slows down both, so a round's ratio is steadier than either value.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit


@dataclass(frozen=True)
class Ratio:
    """A ratio with its 95% interval."""

    ratio: float
    low: float
    high: float

    @property
    def resolved(self) -> bool:
        """Whether the interval tells which of the two is larger."""
        return not self.low <= 1 <= self.high


def paired_ratio(values: Sequence[float], references: Sequence[float]) -> Ratio:
    """The geometric mean of ``values`` over ``references`` by round, with Student's t over pairs of rounds.

    A round's order is the reverse of the last one's, so a steady drift cancels within a pair of rounds.

    Args:
        values, references: positive, one per round, of an even number of rounds, four at least.

    Raises:
        ValueError: the rounds are too few, or an odd number.
    """
    if len(values) != len(references) or len(values) % 2 or len(values) < 4:
        raise ValueError(f"expected an even number of rounds, at least 4, got {len(values)}")
    logs = np.log(np.array(values) / np.array(references)).reshape(-1, 2).mean(axis=1)
    mean = float(logs.mean())
    spread = float(stdtrit(len(logs) - 1, 0.975)) * float(logs.std(ddof=1)) / math.sqrt(len(logs))
    return Ratio(math.exp(mean), math.exp(mean - spread), math.exp(mean + spread))
