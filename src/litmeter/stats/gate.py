"""Did something become slower by more than a margin? A verdict of three values on an interval."""

from __future__ import annotations

import math
from typing import Literal

from scipy.special import ndtri, stdtrit

from litmeter.stats.ratios import FAMILY_ERROR, MODERATION, Ratio

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


def seconds_needed(ratio: Ratio | None, margin: float, seconds: float, starts: int) -> float | None:
    """How long a check should take to decide what a check of ``seconds`` with ``starts`` left open.

    The standard error falls with the square root of the time; more starts know it better. None above
    LONGEST_S (the ratio lies too near 1 - ``margin``), or without an interval.
    """
    if ratio is None or ratio.low is None or ratio.high is None:
        return None
    distance = abs(math.log(ratio.ratio / (1 - margin)))
    half = math.log(ratio.high / ratio.low) / 2
    error = half / _quantile(starts)
    for more in range(starts, 1 + int(starts * LONGEST_S / seconds)):
        # The next estimate will differ.
        if error * math.sqrt(starts / more) * (_quantile(more) + float(ndtri(LIKELY))) <= distance:
            return seconds * more / starts
    return None


def _quantile(starts: int) -> float:
    """Standard errors from the estimate to an end of the interval."""
    return float(stdtrit(starts - 1 + MODERATION, 1 - FAMILY_ERROR / 2))
