"""Reference answers: the exported model's probabilities for every photo, in full precision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from litmeter.errors import ModelError
from litmeter.system.files import read_json, reading, write_json

REFERENCE_NAME = "reference.json"


@dataclass(frozen=True)
class Reference:
    """The reference answers, one entry per photo, in the order of the index.

    Attributes:
        labels: the photos' true classes, as indices into ``classes``.
        splits: train, val or test.
        probabilities: by photo and class, of the checkpoint in float32.
    """

    classes: Sequence[str]
    labels: Sequence[int]
    splits: Sequence[str]
    probabilities: npt.NDArray[np.float64]


def write_reference(folder: Path, reference: Reference) -> None:
    """Write ``reference`` beside the exported model in ``folder``."""
    write_json(folder / REFERENCE_NAME, vars(reference) | {"probabilities": reference.probabilities.tolist()})


def read_reference(folder: Path) -> Reference:
    """Read the reference that the stage ``export`` wrote; raise ModelError if it is missing or malformed."""
    with reading(path := folder / REFERENCE_NAME, "dvc repro export", ModelError):
        content = read_json(path)
        probabilities = np.array(content.pop("probabilities"), dtype=np.float64)
        return Reference(**content, probabilities=probabilities)
