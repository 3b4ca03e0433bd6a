"""What changes from a reference's answers to others, and how sure an agreement is."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binom

from litmeter.stats.agreement import agreement_of
from litmeter.stats.rates import lower_bound

REFERENCE = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.5, 0.5]])
LABELS = [0, 0, 1, 0]


@pytest.mark.parametrize(
    ("row", "answer", "agreement", "change"),
    [(0, [0.9, 0.1], 1.0, 0.0), (0, [0.7, 0.3], 1.0, 0.2), (1, [0.4, 0.6], 0.75, 0.2)],
    ids=["nothing", "a probability that keeps its label", "a label"],
)
def test_what_changes(row: int, answer: list[float], agreement: float, change: float) -> None:
    answers = REFERENCE.copy()
    answers[row] = answer
    found = agreement_of(REFERENCE, answers, LABELS)
    assert (found.photos, found.agreement, found.accuracy) == (4, agreement, agreement)
    assert found.accuracy_change == agreement - 1
    assert (found.largest_change, found.mean_change) == pytest.approx((change, change / 4))
    pairs = zip(REFERENCE[row], answer, strict=True)
    assert found.divergence == pytest.approx(sum(p * math.log(p / q) for p, q in pairs) / 4)


def test_a_probability_of_zero_gives_a_finite_divergence() -> None:
    found = agreement_of(np.array([[0.5, 0.5]]), np.array([[1.0, 0.0]]), [0])
    assert math.isfinite(found.divergence)


@pytest.mark.parametrize(("successes", "trials"), [(111, 111), (109, 111), (1, 3), (360, 370)])
def test_at_the_bound_so_many_agreements_or_more_have_a_chance_of_5_percent(
    successes: int, trials: int
) -> None:
    assert binom.sf(successes - 1, trials, lower_bound(successes, trials)) == pytest.approx(0.05)


def test_a_bound_is_zero_without_a_success() -> None:
    assert lower_bound(0, 5) == 0.0
