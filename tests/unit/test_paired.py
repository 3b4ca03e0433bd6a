"""Ratios of what was measured in turn: known ratios under noise that changes for both."""

from __future__ import annotations

import numpy as np
import pytest

from servebench.stats.paired import paired_ratio


def measured(rng: np.random.Generator, ratio: float, rounds: int) -> tuple[list[float], list[float]]:
    """Two rates on a machine of two speeds, 1.4 apart, that change every few rounds; 3% noise of each."""
    speed = np.repeat(rng.choice([1.0, 1 / 1.4], rounds // 5 + 1), 5)[:rounds]
    noise = np.exp(rng.normal(0, 0.03, (2, rounds)))
    return list(100 * ratio * speed * noise[0]), list(100 * speed * noise[1])


@pytest.mark.parametrize("ratio", [1.0, 1.05, 1.2])
def test_the_interval_holds_the_true_ratio(ratio: float) -> None:
    held = 0
    for seed in range(400):
        found = paired_ratio(*measured(np.random.default_rng(seed), ratio, 20))
        held += found.low <= ratio <= found.high
    assert 0.92 <= held / 400 <= 0.98


def test_a_small_difference_is_resolved_beside_large_drift() -> None:
    found = paired_ratio(*measured(np.random.default_rng(1), 1.05, 40))
    assert found.resolved
    assert found.ratio == pytest.approx(1.05, abs=0.02)


def test_equals_are_not_told_apart() -> None:
    verdicts = [paired_ratio(*measured(np.random.default_rng(seed), 1.0, 20)).resolved for seed in range(200)]
    assert sum(verdicts) <= 20


@pytest.mark.parametrize("rounds", [0, 2, 5])
def test_too_few_or_odd_rounds_are_refused(rounds: int) -> None:
    with pytest.raises(ValueError, match="even number of rounds, at least 4"):
        paired_ratio([1.0] * rounds, [1.0] * rounds)
