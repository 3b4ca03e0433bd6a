"""The fast way from a JPEG to the model's input: no PIL between libjpeg and torch.

timm's transform resizes a PIL image, makes a float tensor of it, and normalises that. This one does
the same to bytes: torchvision's decoder, and torch's resize of uint8 (the same filter, with
antialiasing). Bytes are also what a batch is made of and what goes to the device; they are normalised
there, by one multiplication and addition before the model. What torchvision does not decode as Pillow
does (other formats, CMYK, broken files) goes Pillow's way.
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


class Normalised(torch.nn.Module):
    """A model that takes uint8 pixels (N, 3, size, size)."""

    def __init__(
        self, model: torch.nn.Module, card: ModelCard, device: torch.device, dtype: torch.dtype
    ) -> None:
        super().__init__()
        mean, std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (card.mean, card.std))
        self.model = model
        self.dtype = dtype
        self.scale, self.offset = 1 / (255 * std), -mean / std

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Logits (N, classes)."""
        logits: torch.Tensor = self.model((pixels.float() * self.scale + self.offset).to(self.dtype))
        return logits


class FastTransform:
    """Bytes of an image file -> uint8 pixels, as ``Normalised`` takes them."""

    def __init__(self, card: ModelCard) -> None:
        self.image_size = card.image_size
        self.resized = math.floor(card.image_size / card.crop_pct)
        self.interpolation = InterpolationMode(card.interpolation)

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
        """Resize the shorter side, crop the centre: uint8 (3, size, size)."""
        resized = resize(pixels, [self.resized], self.interpolation, antialias=True)
        cropped: torch.Tensor = center_crop(resized, [self.image_size, self.image_size])
        return cropped

    def _by_pillow(self, image: Image.Image) -> torch.Tensor:
        pixels: torch.Tensor = pil_to_tensor(to_rgb(image))
        return pixels
