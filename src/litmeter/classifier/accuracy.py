"""Served answers compared with the reference answers in full precision."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from litmeter.classifier.model.reference import Reference
from litmeter.errors import LitmeterError
from litmeter.stats.records import Floats

MAX_LOG_ODDS_DIFFERENCE = {"float32": 0.05, "float16": 0.5, "bfloat16": 2.0, "int8": 8.0}
"""Largest difference of log-odds by rounding; above it, the answer belongs to another photo. Probabilities
are near 0 and 1 for all photos of a class, so they would not tell."""
PIXELS_DIFFERENCE = {"timm": 0.0, "torchvision": 0.25, "scaled": 1.2}
"""Added where pixels differ from timm's: twice the largest difference on 370 photos, three of which were
large enough to be scaled."""
MIN_PROBABILITY = 1e-12
"""Smaller probabilities are raised to it, so that their logarithm is finite."""


def compare(
    reference: Reference, answers: Mapping[tuple[int, bytes], int], dtype: str, preprocess: str = "timm"
) -> dict[str, float | int | None]:
    """Compare the answers with the reference; raise LitmeterError for an answer without probabilities.

    Args:
        answers: how often each answer came, by the photo's index in ``reference`` and the answer's body.
        dtype: torch's name of the format that the server computed in.

    Returns:
        ``photos``: how many test photos were answered. ``agreement``: the share of them with the reference's
        label in all their answers. ``accuracy``: the same, with the right label. ``mismatched``: how many
        answers belong to another photo.
    """
    labels: dict[int, set[int]] = defaultdict(set)
    tolerance = MAX_LOG_ODDS_DIFFERENCE[dtype] + PIXELS_DIFFERENCE[preprocess]
    mismatched = 0
    for (photo, content), number in answers.items():
        answer = probabilities(content, reference.classes)
        labels[photo].add(int(answer.argmax()))
        if _log_odds_difference(answer, reference.probabilities[photo]) > tolerance:
            mismatched += number
    tested = [photo for photo in labels if reference.splits[photo] == "test"]
    agreed = sum(labels[photo] == {int(reference.probabilities[photo].argmax())} for photo in tested)
    correct = sum(labels[photo] == {reference.labels[photo]} for photo in tested)
    return {
        "photos": len(tested),
        "agreement": round(agreed / len(tested), 4) if tested else None,
        "accuracy": round(correct / len(tested), 4) if tested else None,
        "mismatched": mismatched,
    }


def probabilities(content: bytes, classes: Sequence[str]) -> Floats:
    """The probabilities in an answer, in the order of ``classes``."""
    try:
        by_class = json.loads(content)["probabilities"]
        return np.array([float(by_class[name]) for name in classes])
    except (ValueError, KeyError, TypeError) as error:
        raise LitmeterError(f"an answer without probabilities: {content[:200]!r}") from error


def _log_odds_difference(answer: Floats, expected: Floats) -> float:
    """Largest difference of log-odds among the three likeliest classes, relative to the likeliest."""
    likeliest = np.argsort(expected)[-3:]
    logs, expected_logs = (np.log(np.maximum(p[likeliest], MIN_PROBABILITY)) for p in (answer, expected))
    return float(np.abs((logs - logs[-1]) - (expected_logs - expected_logs[-1])).max())
