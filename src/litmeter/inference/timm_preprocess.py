"""Image file -> one input of the model, by timm's evaluation transform on PIL images."""

from __future__ import annotations

import torch
from PIL import Image

from litmeter.inference.card import ModelCard
from litmeter.inference.image import MAX_PIXELS, decode
from litmeter.inference.lean_timm import timm


class TimmPreprocess:
    """Decodes by Pillow; resizes, crops and normalises as timm does."""

    def __init__(self, card: ModelCard, max_pixels: int = MAX_PIXELS) -> None:
        self._max_pixels = max_pixels
        self._transform = timm.data.create_transform(
            input_size=(3, card.image_size, card.image_size),
            interpolation=card.interpolation,
            mean=card.mean,
            std=card.std,
            crop_pct=card.crop_pct,
            is_training=False,
        )

    def decode(self, content: bytes) -> Image.Image:
        """Decode an image file to RGB.

        Raises:
            ImageError: 413 above the allowed size, 400 for anything that is not a whole image.
        """
        return decode(content, self._max_pixels)

    def transform(self, image: Image.Image) -> torch.Tensor:
        """Resize, crop, normalise: float32 (3, size, size)."""
        tensor: torch.Tensor = self._transform(image)
        return tensor
