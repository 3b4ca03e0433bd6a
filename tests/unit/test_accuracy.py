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
SURE = np.array([[0.9999, 0.0001], [0.99999, 0.00001], [0.2, 0.8], [0.4, 0.6]])
REFERENCE = Reference(CLASSES, [0, 0, 1, 0], ["train", "test", "test", "test"], SURE)


def answer(probabilities: np.ndarray) -> bytes:
    named = dict(zip(CLASSES, probabilities.tolist(), strict=True))
    return json.dumps({"label": "?", "probability": 0, "probabilities": named}).encode()


def test_equal_answers_agree_and_are_as_accurate() -> None:
    found = compare(REFERENCE, Counter((k, answer(SURE[k])) for k in (0, 1, 2, 3, 3)), "float32")
    assert (found["photos"], found["mismatched"]) == (3, 0)
    assert found["agreement"] == 1.0
    assert found["accuracy"] == pytest.approx(2 / 3, abs=1e-4)


def test_rounding_that_changes_a_label_costs_agreement() -> None:
    half = SURE.copy()
    half[3] = [0.51, 0.49]
    found = compare(REFERENCE, Counter((k, answer(half[k])) for k in range(4)), "bfloat16")
    assert found["agreement"] == pytest.approx(2 / 3, abs=1e-4)
    assert found["accuracy"] == 1.0
    assert found["mismatched"] == 0


def test_torchvisions_pixels_may_move_an_answer_a_little() -> None:
    moved = {(0, answer(np.array([0.99988, 0.00012]))): 7}  # log-odds by 0.18
    assert compare(REFERENCE, moved, "float32")["mismatched"] == 7
    assert compare(REFERENCE, moved, "float32", "torchvision")["mismatched"] == 0


def test_swapped_answers_of_one_class_are_mismatched() -> None:
    """Their labels agree: only the probabilities tell."""
    swapped = [(0, answer(SURE[1])), (1, answer(SURE[0])), (2, answer(SURE[2])), (3, answer(SURE[3]))]
    for dtype in ("float32", "float16", "bfloat16"):
        found = compare(REFERENCE, Counter(swapped), dtype, "torchvision")
        assert found["agreement"] == 1.0
        assert found["mismatched"] == 2


@pytest.mark.parametrize("content", [b"", b"[]", b'{"probabilities": {"cat": 1}}'])
def test_an_answer_of_another_form_is_quoted(content: bytes) -> None:
    with pytest.raises(LitmeterError, match="an answer without probabilities"):
        compare(REFERENCE, {(0, content): 1}, "float32")
