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


def test_equal_answers_change_nothing() -> None:
    found = agreement_of(REFERENCE, REFERENCE, LABELS)
    assert (found.agreement, found.accuracy, found.accuracy_change) == (1.0, 1.0, 0.0)
    assert (found.mean_change, found.largest_change, found.divergence) == (0.0, 0.0, 0.0)


def test_a_changed_label_costs_agreement_and_accuracy() -> None:
    answers = REFERENCE.copy()
    answers[1] = [0.4, 0.6]
    found = agreement_of(REFERENCE, answers, LABELS)
    assert (found.photos, found.agreement, found.accuracy) == (4, 0.75, 0.75)
    assert found.accuracy_change == -0.25
    assert found.largest_change == pytest.approx(0.2)
    assert found.mean_change == pytest.approx(0.05)
    assert found.divergence == pytest.approx((0.6 * math.log(1.5) + 0.4 * math.log(2 / 3)) / 4)


def test_what_labels_hide_the_probabilities_show() -> None:
    answers = REFERENCE.copy()
    answers[0] = [0.7, 0.3]
    found = agreement_of(REFERENCE, answers, LABELS)
    assert found.agreement == 1.0
    assert found.divergence > 0.01


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
