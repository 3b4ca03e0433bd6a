"""The exported model on a device: image bytes -> tensor -> probabilities.

The server's workers and the in-process baseline both run it, so that their rates can be compared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from litmeter.model.card import read_card
from litmeter.model.compiled.model import BatchModel, compiled_model
from litmeter.model.device import dtype_name, lacks_memory, wait_for
from litmeter.model.preprocess import PREPROCESS, stack_images
from litmeter.params import ServeSettings
from litmeter.paths import ModelFolders

WARM_UP = 8
"""Images, at most, of the batch that takes the memory and loads the kernels that later ones need."""


class Predictor:
    """Classifies images with an exported model; raises ModelError where that or a package is missing.

    Args:
        folders: of the exported model and the packages compiled from it.
        device: ``cpu`` or ``cuda``, with an index or without.

    Attributes:
        decode: an image file -> RGB, in the form that ``transform`` takes; raises ImageError.
        transform: that -> one input of the model, on the CPU: normalised float32, or uint8, (3, size, size).
    """

    def __init__(self, folders: ModelFolders, device: str, settings: ServeSettings) -> None:
        self.card = read_card(folders.exported)
        self.device = torch.device(device)
        self.dtype = getattr(torch, dtype_name(settings.precision, device))
        if settings.threads_per_worker is not None:
            torch.set_num_threads(settings.threads_per_worker)
        preprocess = PREPROCESS[settings.preprocess](self.card, settings.max_megapixels * 1_000_000)
        self.decode: Callable[[bytes], Any] = preprocess.decode
        self.transform: Callable[[Any], torch.Tensor] = preprocess.transform

        def build_eager() -> BatchModel:
            from litmeter.model.model import PixelModel, load_model  # imports timm, which takes a second

            model = load_model(folders.exported, self.card, self.device, self.dtype)
            timm = settings.preprocess == "timm"
            return model if timm else PixelModel(model, self.card, self.device, self.dtype)

        self.model: BatchModel = (
            compiled_model(build_eager, folders, settings.precision, self.device)
            if settings.compiled
            else build_eager()
        )

    def warm_up(self, settings: ServeSettings) -> None:
        """Run a batch of one image, and one of several; raise MemoryError as ``predict``."""
        dtype = torch.float32 if settings.preprocess == "timm" else torch.uint8
        image = torch.zeros((3, self.card.image_size, self.card.image_size), dtype=dtype)
        for size in (1, min(settings.max_batch_size, WARM_UP)):
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
