"""Accuracy through the served path: every photo's answer against the checkpoint's in full precision."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from servebench.errors import ServebenchError
from servebench.inference.reference import Reference
from servebench.stats.intervals import wilson_interval

MISMATCHED_BEYOND = {"float32": 0.05, "float16": 0.5, "bfloat16": 2.0}
"""Difference of log-odds from which an answer cannot be its own photo's in another rounding.

Probabilities near 0 and 1 look alike for all photos of a class; their logarithms do not."""
TORCHVISION_ADDS = 0.25
"""What other pixels, of another decoder and resizer, add to that: twice the largest seen on 370 photos."""
SMALLEST = 1e-12


def compare(
    reference: Reference, answers: Sequence[tuple[int, bytes]], dtype: str, preprocess: str = "timm"
) -> dict[str, float | int | None]:
    """Agreement, accuracy and mismatched answers.

    Args:
        answers: place of the photo in ``reference``, and the body of the answer of status 200.
        dtype: torch's name of the format that the server computed in.
        preprocess: how it made pixels of the photos.

    Raises:
        ServebenchError: an answer is not of the form that the server documents.
    """
    labels: dict[int, set[int]] = defaultdict(set)
    beyond = MISMATCHED_BEYOND[dtype] + (TORCHVISION_ADDS if preprocess == "torchvision" else 0.0)
    largest, mismatched = 0.0, 0
    for place, content in answers:
        answer = probabilities(content, reference.classes)
        expected = reference.probabilities[place]
        labels[place].add(int(answer.argmax()))
        largest = max(largest, float(np.abs(answer - expected).max()))
        mismatched += distance(answer, expected) > beyond
    agreed = sum(labels[place] == {int(reference.probabilities[place].argmax())} for place in labels)
    tested = [place for place in labels if reference.splits[place] == "test"]
    right = sum(labels[place] == {reference.labels[place]} for place in tested)
    return {
        "photos": len(labels),
        "answers": len(answers),
        **_share("agreement", agreed, len(labels)),
        **_share("accuracy", right, len(tested)),
        "largest_difference": round(largest, 6),
        "mismatched": mismatched,
    }


def probabilities(content: bytes, classes: Sequence[str]) -> npt.NDArray[np.float64]:
    """The probabilities in an answer, in the order of ``classes``."""
    try:
        given = json.loads(content)["probabilities"]
        return np.array([float(given[name]) for name in classes])
    except (ValueError, KeyError, TypeError) as error:
        raise ServebenchError(f"an answer without probabilities: {content[:200]!r}") from error


def distance(answer: npt.NDArray[np.float64], expected: npt.NDArray[np.float64]) -> float:
    """Largest difference of log-odds against the expected best class, among the three likeliest."""
    likeliest = np.argsort(expected)[-3:]
    answered, wanted = (np.log(np.maximum(p[likeliest], SMALLEST)) for p in (answer, expected))
    return float(np.abs((answered - answered[-1]) - (wanted - wanted[-1])).max())


def _share(name: str, successes: int, trials: int) -> dict[str, Any]:
    if trials == 0:
        return {name: None, f"{name}_low": None, f"{name}_high": None}
    low, high = wilson_interval(successes, trials)
    return {
        name: round(successes / trials, 4),
        f"{name}_low": round(low, 4),
        f"{name}_high": round(high, 4),
    }
