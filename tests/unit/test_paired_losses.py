"""Losses between bounds that were measured in the same rounds."""

from __future__ import annotations

from dataclasses import replace

from litmeter.benchmark.rows import RoundRow
from tests.support.synthetic_results import at_best, batch, level
from tests.unit.test_diagnosis import limit


def test_a_loss_within_rounds_counts_though_the_rates_themselves_overlap() -> None:
    """A machine that changes its speed widens the intervals of both rates, but not that of their ratio."""
    wide = batch(
        1,
        100.0,
        90.0,
        model_low_rps=80.0,
        model_high_rps=120.0,
        pipeline_low_rps=72.0,
        pipeline_high_rps=108.0,
    )
    speeds = (0.8, 1.2, 0.9, 1.1, 1.0, 1.0)
    paired = [
        RoundRow(number, work, 1, rate * speed * wobble)
        for work, rate, odd in (("model", 100.0, 1.0), ("pipeline", 90.0, 1.01))
        for number, (speed, wobble) in enumerate(zip(speeds, (1.0, odd) * 3, strict=True))
    ]
    own = at_best(level(4, 89.0), baseline=[wide], rounds=paired)
    assert limit(replace(own, rounds=[])).cause == "not resolved"
    found = limit(own)
    assert found.cause == "preprocessing"
    assert "0.90 of its own 100.0" in found.text
