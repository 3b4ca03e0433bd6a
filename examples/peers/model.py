"""The model that all servers serve: two matrix products, with weights from a seed."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # read once, when numpy is imported

import numpy as np

INPUTS, HIDDEN, OUTPUTS = 64, 2048, 10
WAIT_S = 0.002
"""How long a batch waits to fill."""


class Model:
    """Lists of 64 numbers to lists of 10."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.first = rng.standard_normal((INPUTS, HIDDEN), np.float32) / INPUTS**0.5
        self.middle = rng.standard_normal((HIDDEN, HIDDEN), np.float32) / HIDDEN**0.5
        self.last = rng.standard_normal((HIDDEN, OUTPUTS), np.float32) / HIDDEN**0.5

    def predict(self, batch: Sequence[Sequence[float]]) -> list[list[float]]:
        """The outputs of a batch; the second product reads 16 MiB of weights, whatever the batch size."""
        hidden = np.maximum(np.asarray(batch, np.float32) @ self.first, 0)
        outputs: list[list[float]] = (np.maximum(hidden @ self.middle, 0) @ self.last).tolist()
        return outputs


def read_options(batches: bool = True) -> argparse.Namespace:
    """The options of a server, which makes batches of requests or not."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    if batches:
        parser.add_argument("--batch", type=int, default=1, help="requests in a batch, at most")
    return parser.parse_args()
