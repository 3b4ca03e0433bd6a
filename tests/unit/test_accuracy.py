"""Answers of the server against the checkpoint's in full precision."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest

from litmeter.classifier.accuracy import compare
from litmeter.classifier.model.reference import Reference
from litmeter.errors import LitmeterError

CLASSES = ["cat", "dog"]
SURE = [[0.9999, 0.0001], [0.99999, 0.00001], [0.2, 0.8], [0.4, 0.6]]
REFERENCE = Reference(CLASSES, [0, 0, 1, 0], ["train", "test", "test", "test"], np.array(SURE))
MOVED = [[0.99988, 0.00012], *SURE[1:]]
"""The log-odds of the first by 0.18."""


def answer(probabilities: list[float]) -> bytes:
    named = dict(zip(CLASSES, probabilities, strict=True))
    return json.dumps({"label": "?", "probability": 0, "probabilities": named}).encode()


@pytest.mark.parametrize(
    ("answers", "dtype", "preprocess", "agreement", "accuracy", "mismatched"),
    [
        (SURE, "float32", "timm", 1.0, 0.6667, 0),
        # Rounding changes a label.
        ([*SURE[:3], [0.51, 0.49]], "bfloat16", "timm", 0.6667, 1.0, 0),
        (MOVED, "float32", "timm", 1.0, 0.6667, 1),
        (MOVED, "float32", "torchvision", 1.0, 0.6667, 0),
        # Two answers of a class are swapped: only their probabilities tell.
        *(
            ([SURE[1], SURE[0], *SURE[2:]], dtype, "torchvision", 1.0, 0.6667, 2)
            for dtype in ("float32", "float16", "bfloat16")
        ),
    ],
)
def test_answers_are_compared_with_the_reference(
    answers: list[list[float]],
    dtype: str,
    preprocess: str,
    agreement: float,
    accuracy: float,
    mismatched: int,
) -> None:
    found = compare(REFERENCE, Counter((k, answer(p)) for k, p in enumerate(answers)), dtype, preprocess)
    expected = {"photos": 3, "agreement": agreement, "accuracy": accuracy, "mismatched": mismatched}
    assert found == expected


def test_a_photo_counts_if_all_its_answers_agree() -> None:
    answers = {(1, answer(SURE[1])): 2, (3, answer(SURE[3])): 1, (3, answer([0.51, 0.49])): 1}
    assert compare(REFERENCE, answers, "bfloat16")["agreement"] == 0.5


@pytest.mark.parametrize("content", [b"", b"[]", b'{"probabilities": {"cat": 1}}'])
def test_an_answer_of_another_form_is_an_error(content: bytes) -> None:
    with pytest.raises(LitmeterError, match="without probabilities"):
        compare(REFERENCE, {(0, content): 1}, "float32")
