"""The exported model on a device: image bytes -> tensor -> probabilities.

The server's workers and the in-process baseline run this very code, so their rates compare.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file

from servebench.card import WEIGHTS_NAME, ModelCard, read_card
from servebench.device import dtype_name
from servebench.model import model_of, transform_of
from servebench.params import ServeSettings
from servebench.serving.fast import FastTransform
from servebench.serving.image import decode


class PilTransform:
    """timm's own transform on PIL images: what most people run."""

    def __init__(self, card: ModelCard) -> None:
        self._transform = transform_of(card)

    def decode(self, content: bytes) -> Image.Image:
        """The RGB image in an image file.

        Raises:
            ImageError: ``content`` is not a whole image, or is too large to decode.
        """
        return decode(content)

    def transform(self, image: Image.Image) -> torch.Tensor:
        """Resize, crop, normalise: float32 (3, size, size)."""
        tensor: torch.Tensor = self._transform(image)
        return tensor


class Classifier:
    """An exported model, ready to answer.

    Args:
        folder: where ``export`` put weights and card.
        device: ``cpu`` or ``cuda``, with an index or without.
        settings: precision, threads and preprocessing are those of this configuration.
    """

    def __init__(self, folder: Path, device: str, settings: ServeSettings) -> None:
        self.card = read_card(folder)
        self.device = torch.device(device)
        self.dtype = getattr(torch, dtype_name(settings.precision, device))
        if settings.threads_per_worker is not None:
            torch.set_num_threads(settings.threads_per_worker)
        # Full precision means IEEE float32: without this, convolutions on a GPU run in TF32.
        torch.backends.cudnn.allow_tf32 = False
        model = model_of(self.card)
        model.load_state_dict(load_file(folder / WEIGHTS_NAME))
        self.model = model.to(self.device, self.dtype)
        fast = settings.preprocess == "fast"
        self._images = FastTransform(self.card) if fast else PilTransform(self.card)

    def decode(self, content: bytes) -> Any:
        """The RGB image in an image file, in the form that ``transform`` takes.

        Raises:
            ImageError: ``content`` is not a whole image, or is too large to decode.
        """
        return self._images.decode(content)

    def transform(self, image: Any) -> torch.Tensor:
        """The image as the model takes it: float32 tensor (3, size, size) on the CPU."""
        return self._images.transform(image)

    def preprocess(self, content: bytes) -> torch.Tensor:
        """Decode and transform one image file: float32 tensor (3, size, size) on the CPU.

        Raises:
            ImageError: ``content`` is not a whole image, or is too large to decode.
        """
        return self.transform(self.decode(content))

    def predict(self, images: Sequence[torch.Tensor]) -> torch.Tensor:
        """Class probabilities, float32 (N, classes) on the CPU, of preprocessed images."""
        return self.forward(torch.stack(list(images)).to(self.device, self.dtype)).cpu()

    @torch.inference_mode()
    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        """Class probabilities, float32 (N, classes), of a batch on the device in its dtype."""
        logits: torch.Tensor = self.model(batch)
        return logits.float().softmax(dim=1)
