"""Image file -> one input of the model, by timm's transform on PIL images or by torchvision on tensors.

torchvision decodes a JPEG by libjpeg straight into a tensor and resizes uint8 (the same filter as timm's,
with antialiasing). Batches are stacked and copied to the device as uint8, and normalised there by one
multiplication and addition (``PixelModel``). Files that torchvision does not decode to the same pixels as
Pillow (other formats, CMYK, damaged files) are decoded by Pillow.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from PIL import Image
from timm.data import create_transform
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import center_crop, pil_to_tensor, resize

from servebench.inference.card import ModelCard
from servebench.inference.image import MAX_PIXELS, decode, needed_parts, open_image, to_rgb

TORCHVISION_MODES = ("RGB", "L")
"""Pillow's names of the JPEGs that torchvision decodes to the same pixels."""


class TimmPreprocess:
    """timm's evaluation transform on PIL images."""

    def __init__(self, card: ModelCard, max_pixels: int = MAX_PIXELS) -> None:
        self._max_pixels = max_pixels
        self._transform = create_transform(
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


class TorchvisionPreprocess:
    """torchvision's decoder and resizer: image files -> uint8 pixels, as ``PixelModel`` takes them."""

    def __init__(self, card: ModelCard, max_pixels: int = MAX_PIXELS) -> None:
        self._max_pixels = max_pixels
        self.image_size = card.image_size
        self.resized = math.floor(card.image_size / card.crop_pct)
        self.interpolation = InterpolationMode(card.interpolation)

    def decode(self, content: bytes) -> torch.Tensor:
        """Decode an image file to RGB, uint8 (3, height, width).

        Raises:
            ImageError: 413 above the allowed size, 400 for anything that is not a whole image.
        """
        content = needed_parts(content)
        image = open_image(content, self._max_pixels)
        if image.format == "JPEG" and image.mode in TORCHVISION_MODES:
            data = torch.frombuffer(bytearray(content), dtype=torch.uint8)
            try:
                pixels: torch.Tensor = decode_jpeg(data, ImageReadMode.RGB)
            except RuntimeError:
                return self._decode_by_pillow(image)  # Pillow decodes it, or raises with a reason
            return pixels
        return self._decode_by_pillow(image)

    def transform(self, pixels: torch.Tensor) -> torch.Tensor:
        """Resize the shorter side, crop the centre: uint8 (3, size, size)."""
        resized = resize(pixels, [self.resized], self.interpolation, antialias=True)
        cropped: torch.Tensor = center_crop(resized, [self.image_size, self.image_size])
        return cropped

    def _decode_by_pillow(self, image: Image.Image) -> torch.Tensor:
        pixels: torch.Tensor = pil_to_tensor(to_rgb(image))
        return pixels


def stack_images(images: Sequence[torch.Tensor], device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """Stack preprocessed images, each (3, size, size), to a batch (N, 3, size, size) on ``device``.

    Floats become ``dtype``. uint8 pixels stay uint8, channels last as they were decoded, and are copied to
    a GPU from page-locked memory, which torch keeps until the copy is done.
    """
    if images[0].is_floating_point():
        return torch.stack(list(images)).to(device, dtype)
    stacked = torch.empty(
        (len(images), *images[0].shape),
        dtype=images[0].dtype,
        memory_format=torch.channels_last,
        pin_memory=device.type == "cuda",
    )
    return torch.stack(list(images), out=stacked).to(device, non_blocking=True)
