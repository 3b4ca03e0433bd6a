"""Did something become slower by more than a margin? A verdict of three values on an interval."""

from __future__ import annotations

import math
from typing import Literal

from scipy.special import ndtri, stdtrit

from litmeter.stats.ratios import BLOCKS, FAMILY_ERROR, Ratio

Verdict = Literal["not slower", "slower", "open"]
PASSED, SLOWER, OPEN = 0, 1, 3
"""Exit statuses; 2 is for errors."""
P95_ERROR = 0.01
"""Chance that the interval of p95 misses the true ratio: it adds little to the false alarms of the rate."""
LIKELY = 0.8
"""Chance that a check of ``seconds_needed`` is decisive, if the ratio is as estimated."""
LONGEST_S = 3600.0
"""Longer checks are not suggested."""


def verdict(ratio: Ratio | None, margin: float) -> Verdict:
    """Whether the interval of new / old lies above 1 - ``margin`` or below; open if neither, or unknown."""
    if ratio is None or ratio.low is None or ratio.high is None:
        return "open"
    if ratio.low > 1 - margin:
        return "not slower"
    return "slower" if ratio.high < 1 - margin else "open"


def exit_status(rate: Verdict, p95: Verdict, *, exceeded: bool = False) -> int:
    """PASSED, SLOWER or OPEN; ``exceeded``: another limit was exceeded.

    A slower p95 fails a check; an open p95 does not keep it open. The p95 moves with the rate and has a wider
    interval, so that most checks would stay open.
    """
    if exceeded or "slower" in (rate, p95):
        return SLOWER
    return OPEN if rate == "open" else PASSED


def seconds_needed(ratio: Ratio | None, margin: float, seconds: float) -> float | None:
    """How long a check should take to decide what a check of ``seconds`` left open.

    The interval's width falls with the square root of the time. None above LONGEST_S (the ratio lies too
    near 1 - ``margin``), or without an interval.
    """
    if ratio is None or ratio.low is None or ratio.high is None:
        return None
    distance = abs(math.log(ratio.ratio / (1 - margin)))
    half = math.log(ratio.high / ratio.low) / 2
    quantile = float(stdtrit(BLOCKS - 1, 1 - FAMILY_ERROR / 2))
    half *= 1 + float(ndtri(LIKELY)) / quantile  # the next estimate will differ
    needed_s = seconds * (half / distance) ** 2 if distance else math.inf
    return max(seconds, needed_s) if needed_s <= LONGEST_S else None
