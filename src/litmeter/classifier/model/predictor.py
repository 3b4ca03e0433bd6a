"""The exported model on a device: image bytes -> tensor -> probabilities.

The server's workers and the in-process baseline both run it, so their rates can be compared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from litmeter.classifier.model.card import read_card
from litmeter.classifier.model.compiled.model import BatchModel, compiled_model
from litmeter.classifier.model.precision import dtype_name
from litmeter.classifier.model.preprocess import PREPROCESS, stack_images
from litmeter.classifier.model.settings import InferenceSettings
from litmeter.paths import ModelFolders
from litmeter.system.device import lacks_memory, wait_for

WARM_UP = 8
"""Most images of the second warm-up batch, which allocates memory and loads the kernels for batches."""


class Predictor:
    """Classifies images with an exported model; raises ModelError where the model or a package is missing.

    Args:
        device: ``cpu`` or ``cuda``, with or without an index.
        threads: torch's threads on a CPU; None for torch's default.

    Attributes:
        decode: an image file -> RGB, as ``transform`` takes it; raises ImageError.
        transform: RGB -> one input of the model on the CPU, (3, size, size): normalised float32, or uint8.
    """

    def __init__(
        self, folders: ModelFolders, device: str, settings: InferenceSettings, threads: int | None = None
    ) -> None:
        self.card = read_card(folders.exported)
        self.device = torch.device(device)
        self.dtype = getattr(torch, dtype_name(settings.precision, device))
        self.pixels_dtype = torch.float32 if settings.preprocess == "timm" else torch.uint8
        if threads is not None:
            torch.set_num_threads(threads)
        preprocess = PREPROCESS[settings.preprocess](self.card, settings.max_megapixels * 1_000_000)
        self.decode: Callable[[bytes], Any] = preprocess.decode
        self.transform: Callable[[Any], torch.Tensor] = preprocess.transform

        def build_eager() -> BatchModel:
            from litmeter.classifier.model.model import (  # imports timm, which takes a second
                PixelModel,
                load_model,
            )

            model = load_model(folders.exported, self.card, self.device, self.dtype)
            timm = settings.preprocess == "timm"
            return model if timm else PixelModel(model, self.card, self.device, self.dtype)

        self.model: BatchModel = (
            compiled_model(build_eager, folders, settings.precision, self.device)
            if settings.compiled
            else build_eager()
        )

    def warm_up(self, largest_batch: int) -> None:
        """Run a batch of one image, and one of several; raise MemoryError as ``predict``."""
        image = torch.zeros((3, self.card.image_size, self.card.image_size), dtype=self.pixels_dtype)
        for size in (1, min(largest_batch, WARM_UP)):
            self.predict([image] * size)

    def preprocess(self, content: bytes) -> torch.Tensor:
        """Decode and transform one image file."""
        return self.transform(self.decode(content))

    def batch(self, images: Sequence[torch.Tensor]) -> torch.Tensor:
        """Stack preprocessed images on the device: (N, 3, size, size), as ``forward`` takes them."""
        return stack_images(images, self.device, self.dtype)

    def predict(self, images: Sequence[torch.Tensor]) -> torch.Tensor:
        """Class probabilities, float32 (N, classes) on the CPU, of preprocessed images.

        Raise MemoryError where the device's memory does not suffice for a batch of this size.
        """
        try:
            probabilities = self.forward(self.batch(images))
            wait_for(self.device)
            return probabilities.cpu()
        except RuntimeError as error:
            if not lacks_memory(error):
                raise
            reason = str(error).splitlines()[0]
        # Raised outside the handler: the handled error's traceback keeps the tensors alive.
        raise MemoryError(reason)

    @torch.inference_mode()
    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        """Class probabilities, float32 (N, classes), of a batch."""
        return self.model(batch).float().softmax(dim=1)
