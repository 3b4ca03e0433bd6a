"""How much a model's answers differ from a reference's on the same photos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from litmeter.stats.rates import lower_bound
from litmeter.stats.records import Floats

Probabilities = Floats
"""Probabilities by photo and class."""
MIN_PROBABILITY = 1e-12
"""Smaller probabilities are raised to this one, so that logarithms are finite."""


@dataclass(frozen=True)
class Agreement:
    """Differences of a model's answers from the reference's. Labels alone hide changes of certain answers.

    Attributes:
        agreement, agreement_low: share of photos with the same likeliest class; its lower 95% bound for
            similar photos.
        accuracy, accuracy_change: share of correct labels; that less the reference's share.
        mean_change, largest_change: of a probability, over photos and classes.
        divergence: Kullback-Leibler divergence from the reference, mean over photos, in nats.
    """

    photos: int
    agreement: float
    agreement_low: float
    accuracy: float
    accuracy_change: float
    mean_change: float
    largest_change: float
    divergence: float


def agreement_of(reference: Probabilities, answers: Probabilities, labels: Sequence[int]) -> Agreement:
    """Compare ``answers`` with ``reference``, on one or more photos; ``labels`` are the true classes."""
    expected, actual = reference.argmax(axis=1), answers.argmax(axis=1)
    agreed = int((expected == actual).sum())
    differences = np.abs(answers - reference)
    logs, expected_logs = (np.log(np.maximum(p, MIN_PROBABILITY)) for p in (answers, reference))
    accuracy, accuracy_before = (float((found == np.array(labels)).mean()) for found in (actual, expected))
    return Agreement(
        photos=len(labels),
        agreement=agreed / len(labels),
        agreement_low=lower_bound(agreed, len(labels)),
        accuracy=accuracy,
        accuracy_change=accuracy - accuracy_before,
        mean_change=float(differences.mean()),
        largest_change=float(differences.max()),
        divergence=float((reference * (expected_logs - logs)).sum(axis=1).mean()),
    )
