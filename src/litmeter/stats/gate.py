"""Whether something became slower by more than a margin: a verdict of three values on an interval."""

from __future__ import annotations

import math
from typing import Literal

from scipy.special import ndtri, stdtrit

from litmeter.stats.ratios import BLOCKS, FAMILY_ERROR, Ratio

Verdict = Literal["not slower", "slower", "open"]
PASSED, SLOWER, OPEN = 0, 1, 3
"""Exit statuses; 2 is that of errors."""
P95_ERROR = 0.01
"""Chance that the interval of p95 misses the true ratio: a second way to be called slower by chance, which
adds little to that of the rate."""
LIKELY = 0.8
"""Chance with which a check of ``seconds_needed`` finds out, if the ratio is what it seems to be."""
LONGEST_S = 3600.0
"""Checks that would take longer are not worth naming."""


def verdict(ratio: Ratio | None, margin: float) -> Verdict:
    """Whether all of the interval of new / old lies above 1 - ``margin``, or below, or neither.

    Without an interval it is open.
    """
    if ratio is None or ratio.low is None or ratio.high is None:
        return "open"
    if ratio.low > 1 - margin:
        return "not slower"
    return "slower" if ratio.high < 1 - margin else "open"


def exit_status(rate: Verdict, p95: Verdict, *, exceeded: bool = False) -> int:
    """PASSED, SLOWER or OPEN; ``exceeded``: something else is not as it must be.

    A p95 that is slower fails a check. One that is open does not leave it open: it moves with the rate, and
    has a wider interval, so that most checks would stay open.
    """
    if exceeded or "slower" in (rate, p95):
        return SLOWER
    return OPEN if rate == "open" else PASSED


def seconds_needed(ratio: Ratio | None, margin: float, seconds: float) -> float | None:
    """How long a check should take to find out what one of ``seconds`` has left open.

    The interval's width goes with the root of the time. None where that is more than LONGEST_S, as the ratio
    lies too near to 1 - ``margin``, or there is no interval.
    """
    if ratio is None or ratio.low is None or ratio.high is None:
        return None
    distance = abs(math.log(ratio.ratio / (1 - margin)))
    half = math.log(ratio.high / ratio.low) / 2
    quantile = float(stdtrit(BLOCKS - 1, 1 - FAMILY_ERROR / 2))
    half *= 1 + float(ndtri(LIKELY)) / quantile  # the next ratio will lie elsewhere
    needed_s = seconds * (half / distance) ** 2 if distance else math.inf
    return max(seconds, needed_s) if needed_s <= LONGEST_S else None
