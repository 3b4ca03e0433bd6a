"""A predictor that computes nothing: with it, a request costs only what the server itself costs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from litmeter.inference.card import read_card


class NullPredictor:
    """Has the interface of ``Predictor``, but neither decodes images nor runs a model."""

    def __init__(self, folder: Path) -> None:
        self.card = read_card(folder)

    def decode(self, content: bytes) -> bytes:
        """``content``, unchanged."""
        return content

    def transform(self, content: bytes) -> bytes:
        """``content``, unchanged."""
        return content

    def predict(self, images: Sequence[bytes]) -> npt.NDArray[np.float64]:
        """The same probability for every class, (N, classes)."""
        classes = len(self.card.classes)
        return np.full((len(images), classes), 1 / classes)
