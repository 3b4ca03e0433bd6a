"""The fast way from a JPEG to the model's input: no PIL between libjpeg and torch.

timm's transform resizes a PIL image, makes a float tensor of it, and normalises that. This one does
the same to bytes: torchvision's decoder, torch's resize of uint8 (the same filter, with antialiasing),
and one multiplication and addition. What torchvision does not decode as Pillow does (other formats,
CMYK, broken files) goes Pillow's way.
"""

from __future__ import annotations

import math

import torch
from PIL import Image
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import center_crop, pil_to_tensor, resize

from servebench.card import ModelCard
from servebench.serving.image import open_image, to_rgb

PLAIN_MODES = ("RGB", "L")


class FastTransform:
    """Bytes of an image file -> normalised tensor, as the card's model takes it."""

    def __init__(self, card: ModelCard) -> None:
        self.image_size = card.image_size
        self.resized = math.floor(card.image_size / card.crop_pct)
        self.interpolation = InterpolationMode(card.interpolation)
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (card.mean, card.std))
        self.scale, self.offset = 1 / (255 * std), -mean / std

    def decode(self, content: bytes) -> torch.Tensor:
        """The RGB image in an image file, uint8 (3, height, width).

        Raises:
            ImageError: 413 above the allowed size, 400 for anything that is not a whole image.
        """
        image = open_image(content)
        if image.format == "JPEG" and image.mode in PLAIN_MODES:
            data = torch.frombuffer(bytearray(content), dtype=torch.uint8)
            try:
                pixels: torch.Tensor = decode_jpeg(data, ImageReadMode.RGB)
            except RuntimeError:
                return self._by_pillow(image)  # which accepts it, or says what is wrong with it
            return pixels
        return self._by_pillow(image)

    def transform(self, pixels: torch.Tensor) -> torch.Tensor:
        """Resize the shorter side, crop the centre, normalise: float32 (3, size, size)."""
        resized = resize(pixels, [self.resized], self.interpolation, antialias=True)
        cropped = center_crop(resized, [self.image_size, self.image_size])
        normalised: torch.Tensor = cropped.float().mul_(self.scale).add_(self.offset)
        return normalised

    def _by_pillow(self, image: Image.Image) -> torch.Tensor:
        pixels: torch.Tensor = pil_to_tensor(to_rgb(image))
        return pixels
