"""Whether a goal is met: by an interval over rounds, not by which side the rounds happen to lie on."""

from __future__ import annotations

import math

import numpy as np
import pytest
from studies.goals import cells, interval_over, verdict

ROUNDS, TRIALS = 3, 2000


def test_the_interval_is_students_t_of_the_logarithms() -> None:
    low, high = interval_over([1.0, 2.0, 4.0]) or (0.0, 0.0)
    half_width = 4.302653 * math.log(2) / math.sqrt(3)
    assert low == pytest.approx(2 * math.exp(-half_width), rel=1e-5)
    assert high == pytest.approx(2 * math.exp(half_width), rel=1e-5)


def test_values_without_a_logarithm_are_taken_as_they_are() -> None:
    half_width = 4.302653 / math.sqrt(3)
    assert interval_over([-1.0, 0.0, 1.0]) == pytest.approx((-half_width, half_width))


@pytest.mark.parametrize(
    ("values", "target", "at_least", "expected"),
    [
        ([1.02, 1.30, 1.05], 1.0, True, "not resolved"),  # all above the target, and nothing is shown
        ([1.10, 1.11, 1.12], 1.0, True, "yes"),
        ([0.90, 0.91, 0.92], 1.0, True, "no"),
        ([0.90, 0.91, 0.92], 1.0, False, "yes"),
        ([1.10, 1.11, 1.12], 1.0, False, "no"),
        ([1.49, 1.52, 1.56, 1.58, 1.7035], 1.7, False, "yes"),  # one round beyond the target
        ([1.2, 1.2], 1.0, True, "not resolved"),  # too few
        ([1.2], 1.0, True, "not resolved"),
        ([0.0, 0.0, 0.0], 0.0, False, "yes"),
    ],
)
def test_a_goal_is_met_where_the_whole_interval_says_so(
    values: list[float], target: float, at_least: bool, expected: str
) -> None:
    assert verdict(values, target, at_least=at_least) == expected


@pytest.mark.parametrize("at_least", [True, False])
def test_windows_of_one_run_say_that_they_are(at_least: bool) -> None:
    good, bad = ([0.93, 0.94, 0.93], [0.8, 0.81, 0.8])
    met, missed = (good, bad) if at_least else (bad, good)
    assert verdict(met, 0.9, at_least=at_least, one_run=True) == "yes, in one run"
    assert verdict(missed, 0.9, at_least=at_least, one_run=True) == "no, in one run"
    assert verdict([0.85, 0.95], 0.9, at_least=at_least, one_run=True) == "not resolved"


def test_an_interval_that_was_computed_elsewhere_decides() -> None:
    assert verdict([10.13], 8.0, at_least=True, interval=(9.31, 11.02)) == "yes"
    assert verdict([8.5], 8.0, at_least=True, interval=(7.9, 9.1)) == "not resolved"


def test_three_rounds_at_the_target_are_seldom_called_met_or_missed() -> None:
    """All three lie on one side in a quarter of the cases."""
    rounds = np.exp(np.random.default_rng(1).normal(0.0, 0.1, (TRIALS, ROUNDS)))
    one_sided = np.mean(np.all(rounds > 1, axis=1) | np.all(rounds < 1, axis=1))
    decided = np.mean([verdict(list(own), 1.0, at_least=True) != "not resolved" for own in rounds])
    assert one_sided == pytest.approx(0.25, abs=0.03)
    assert decided == pytest.approx(0.05, abs=0.015)


def test_a_row_shows_what_decides() -> None:
    kept = {
        "goal": "a ratio",
        "target": 1.0,
        "figure": 1.11,
        "at_least": True,
        "one_run": False,
        "interval": None,
        "values": [1.10, 1.11, 1.12],
    }
    assert cells(kept) == ["a ratio", "at least 1", "1.11", "1.1 to 1.12", "1.09 to 1.14", "yes"]
    assert cells(kept | {"one_run": True})[3:] == ["1.1 to 1.12", "-", "yes, in one run"]
