"""The gate's verdicts: what they say of an interval, and how often they are right on a noisy machine."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from litmeter.stats.gate import LONGEST_S, OPEN, PASSED, SLOWER, Verdict, exit_status, seconds_needed, verdict
from litmeter.stats.ratios import Ratio, ratio

MARGIN, REPEATS = 0.05, 600
ROUND_S, START_S, BLOCK_S = 1.5, 8.0, 30.0
ROUND_NOISE, START_NOISE = 0.055, 0.008
"""Standard deviations of logarithms: of a turn's rate, and of a start's."""
SLOWDOWN, SLOW_EVERY_S = 1.4, 20.0


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.951, 1.2, "not slower"),
        (1.1, 1.2, "not slower"),
        (0.8, 0.949, "slower"),
        (0.95, 1.0, "open"),
        (0.9, 0.95, "open"),
        (0.5, 2.0, "open"),
        (None, None, "open"),
    ],
)
def test_only_a_whole_interval_is_firm(low: float | None, high: float | None, expected: Verdict) -> None:
    assert verdict(Ratio(0.95, low, high), MARGIN) == expected


def needed_s(middle: float, half: float, seconds: float = 180.0, starts: int = 6) -> float | None:
    ratio = Ratio(middle, middle * math.exp(-half), middle * math.exp(half))
    return seconds_needed(ratio, MARGIN, seconds, starts)


def test_time_needed_goes_with_the_square_of_the_width_and_less_where_few_starts_were_the_reason() -> None:
    near, far, few = (
        needed_s(1.0, 0.06, starts=30),
        needed_s(1.0, 0.12, starts=30),
        needed_s(1.0, 0.06, starts=2),
    )
    assert near is not None
    assert far == pytest.approx(4 * near, rel=0.05)
    assert few is not None
    assert few < 0.95 * near
    assert needed_s(0.951, 0.06) is needed_s(0.95, 0.06) is needed_s(1.0, 0.051, LONGEST_S) is None


def test_without_a_ratio_it_is_open() -> None:
    assert (verdict(None, MARGIN), seconds_needed(None, MARGIN, 180.0, 6)) == ("open", None)


def speed(at_s: float, phase_s: float) -> float:
    return 1 / SLOWDOWN if (at_s + phase_s) % (2 * SLOW_EVERY_S) < SLOW_EVERY_S else 1.0


def checked(
    seconds: float, truth: float, slowed: bool, rng: np.random.Generator, start_noise: float = START_NOISE
) -> Ratio:
    """What a simulated check finds, whose blocks each begin with new starts."""
    phase_s, blocks = rng.uniform(0, 2 * SLOW_EVERY_S), round(seconds / BLOCK_S)
    rates: dict[str, list[float | None]] = {"old": [], "new": []}
    first_rounds = []
    for block in range(blocks):
        first_rounds.append(len(rates["old"]))
        starts = {"old": rng.normal(0, start_noise), "new": math.log(truth) + rng.normal(0, start_noise)}
        begins = np.arange(block * BLOCK_S + START_S, (block + 1) * BLOCK_S - ROUND_S, ROUND_S)
        for number, begin_s in enumerate(begins):
            for place, name in enumerate(["old", "new"][:: -1 if number % 2 else 1]):
                middle_s = begin_s + (place + 0.5) * ROUND_S / 2
                factor = speed(middle_s, phase_s) if slowed else 1.0
                rates[name].append(factor * math.exp(starts[name] + rng.normal(0, ROUND_NOISE)))
    return ratio(rates, "new", "old", "old", starts=first_rounds)


def shares(seconds: float, truth: float, slowed: bool) -> Counter[Verdict]:
    rng = np.random.default_rng(1)
    found = Counter(verdict(checked(seconds, truth, slowed, rng), MARGIN) for _ in range(REPEATS))
    return Counter({key: count / REPEATS for key, count in found.items()})  # type: ignore[misc]


@pytest.mark.parametrize("seconds", [120.0, 360.0])
def test_the_interval_holds_the_truth_though_each_start_has_its_own_rate(seconds: float) -> None:
    rng = np.random.default_rng(2)
    found = [checked(seconds, 1.0, True, rng, start_noise=0.02) for _ in range(REPEATS)]
    assert np.mean([one.low <= 1 <= one.high for one in found]) > 0.91  # type: ignore[operator]


@pytest.mark.parametrize("slowed", [False, True])
def test_equal_ones_pass_and_slower_ones_are_found(slowed: bool) -> None:
    equal = shares(180.0, 1.0, slowed)
    assert equal["slower"] <= 0.025
    assert equal["open"] <= 0.15
    assert shares(180.0, 1 / 1.1, slowed)["slower"] >= 0.85
    assert shares(360.0, 1 / 1.1, slowed)["slower"] >= 0.95


@pytest.mark.parametrize("slowed", [False, True])
@pytest.mark.parametrize("seconds", [180.0, 720.0])
def test_at_the_margin_a_firm_verdict_is_rare(seconds: float, slowed: bool) -> None:
    firm = shares(seconds, 1 - MARGIN, slowed)
    assert max(firm["slower"], firm["not slower"]) <= 0.05


@pytest.mark.parametrize(
    ("rate", "p95", "exceeded", "status"),
    [
        ("not slower", "not slower", False, PASSED),
        ("not slower", "open", False, PASSED),
        ("not slower", "slower", False, SLOWER),
        ("not slower", "not slower", True, SLOWER),
        ("slower", "open", False, SLOWER),
        ("open", "not slower", False, OPEN),
        ("open", "slower", False, SLOWER),
    ],
)
def test_exit_status(rate: Verdict, p95: Verdict, exceeded: bool, status: int) -> None:
    assert exit_status(rate, p95, exceeded=exceeded) == status
