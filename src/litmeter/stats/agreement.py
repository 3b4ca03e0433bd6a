"""How much a model's answers differ from a reference's, on the same photos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from litmeter.stats.rates import lower_bound
from litmeter.stats.records import Floats

Probabilities = Floats
"""By photo and class."""
MIN_PROBABILITY = 1e-12
"""Smaller ones are raised to it, so that their logarithm is finite."""


@dataclass(frozen=True)
class Agreement:
    """What changes from the reference's answers to others. Labels alone hide it where all are certain.

    Attributes:
        agreement, agreement_low: share of the photos whose likeliest class is the same; with 95% certainty no
            less for photos like these.
        accuracy, accuracy_change: share of right labels among the other answers, less the reference's.
        mean_change, largest_change: of a probability, over photos and classes.
        divergence: of Kullback and Leibler, from the reference, mean over the photos, in nats.
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
    """What changes from ``reference`` to ``answers``, of one photo at least; ``labels`` are the true ones."""
    expected, found = reference.argmax(axis=1), answers.argmax(axis=1)
    agreed = int((expected == found).sum())
    differences = np.abs(answers - reference)
    logs, expected_logs = (np.log(np.maximum(p, MIN_PROBABILITY)) for p in (answers, reference))
    accuracy, accuracy_before = (float((own == np.array(labels)).mean()) for own in (found, expected))
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
