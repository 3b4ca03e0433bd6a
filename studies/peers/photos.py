"""What all peers share: their options, and the predictor with answers in the form of our own server."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from litmeter.inference.predictor import Predictor
from litmeter.params import ServeSettings
from litmeter.paths import ModelFolders
from litmeter.system.signals import exit_with_parent
from studies import DEVICE

VARIABLE = "PEER_OPTIONS"
"""In the environment, from where all of a peer's processes have it, whoever starts them."""


class Options(BaseModel):
    """How a peer is to serve.

    Attributes:
        folders: of the model.
        scratch: an empty folder: every worker leaves a file there once it has loaded the model.
    """

    folders: ModelFolders
    settings: ServeSettings
    port: int
    scratch: Path


def read_options() -> Options:
    """The options of the peer that this process belongs to."""
    return Options.model_validate_json(os.environ[VARIABLE])


class Photos:
    """The exported model in a peer's worker."""

    def __init__(self) -> None:
        exit_with_parent()  # not all frameworks' workers do, should their main process be killed
        options = read_options()
        self.predictor = Predictor(options.folders, DEVICE, options.settings)
        (options.scratch / f"{os.getpid()}.ready").touch()

    def answers(self, contents: Sequence[bytes]) -> list[dict[str, Any]]:
        """Classify a batch of image files."""
        images = [self.predictor.preprocess(content) for content in contents]
        return [self._answer(row) for row in self.predictor.predict(images).tolist()]

    def _answer(self, probabilities: list[float]) -> dict[str, Any]:
        by_class = dict(zip(self.predictor.card.classes, probabilities, strict=True))
        label = max(by_class, key=by_class.__getitem__)
        return {"label": label, "probability": by_class[label], "probabilities": by_class}
