"""The classifier without a server: decodes, preprocesses and classifies photos."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import partial

import torch

from litmeter.classifier.model.predictor import Predictor
from litmeter.classifier.model.settings import InferenceSettings
from litmeter.paths import ModelFolders
from litmeter.system.device import wait_for


class ClassifierPipeline:
    """The classifier's pipeline on photos, with torch's number of ``threads``."""

    def __init__(
        self,
        folders: ModelFolders,
        device: str,
        settings: InferenceSettings,
        threads: int | None,
        photos: Sequence[bytes],
    ) -> None:
        self._predictor = Predictor(folders, device, settings, threads)
        self._wait = partial(wait_for, self._predictor.device)
        self._next_photo = itertools.cycle(photos).__next__
        self.threads = torch.get_num_threads()

    def batch(self, size: int) -> torch.Tensor:
        """Preprocessed photos on the device."""
        return self._predictor.batch(self._images(size))

    def run(self, kind: str, size: int, batch: torch.Tensor) -> None:
        """Run a ``kind`` of work: ``preprocess``, the whole ``pipeline``, or the model alone."""
        if kind == "preprocess":
            self._images(size)
        elif kind == "pipeline":
            self._predictor.predict(self._images(size))
        else:
            self._predictor.forward(batch)
            self._wait()

    def _images(self, size: int) -> list[torch.Tensor]:
        return [self._predictor.preprocess(self._next_photo()) for _ in range(size)]
