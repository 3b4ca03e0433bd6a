"""Image file -> one input of the model: by torch on bytes, or by timm's evaluation transform on PIL images.

On bytes, libjpeg decodes into a tensor, and uint8 are resized by timm's filter, with antialiasing. Batches
are stacked and copied to the device as uint8, and normalised there (``PixelModel``). The pixels equal
torchvision's, which is not imported: it takes a second, and 60 MiB in each worker. Nor is timm, where it is
not used. Pillow decodes other formats, CMYK, and damaged files.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import numpy as np
import simplejpeg
import torch
from numpy.typing import NDArray
from PIL import Image

from litmeter.classifier.model.card import INTERPOLATIONS, ModelCard
from litmeter.classifier.model.image import MAX_PIXELS, decode, needed_parts, open_image, to_rgb
from litmeter.errors import ModelError


class TimmPreprocess:
    """Decodes by Pillow; resizes, crops and normalises as timm does."""

    def __init__(self, card: ModelCard, max_pixels: int = MAX_PIXELS) -> None:
        from litmeter.classifier.model.model import timm  # takes a second

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
        """Decode an image file to RGB; raise ImageError as ``image.decode`` does."""
        return decode(content, self._max_pixels)

    def transform(self, image: Image.Image) -> torch.Tensor:
        """Resize, crop, normalise: float32 (3, size, size)."""
        tensor: torch.Tensor = self._transform(image)
        return tensor


LIBJPEG_MODES = ("RGB", "L")
"""Pillow's names of the colour spaces that libjpeg itself converts to RGB."""


class TorchvisionPreprocess:
    """Decodes and resizes by libjpeg and torch: image files -> uint8 pixels, as ``PixelModel`` takes them.

    Raises ModelError where torch cannot resize as the model needs it.
    """

    def __init__(self, card: ModelCard, max_pixels: int = MAX_PIXELS) -> None:
        if card.interpolation not in INTERPOLATIONS:
            raise ModelError(
                f"serve.preprocess: 'torchvision' resizes by {' or '.join(INTERPOLATIONS)}, and this model "
                f"needs {card.interpolation}; set 'timm'"
            )
        self._max_pixels = max_pixels
        self.image_size = card.image_size
        self.resized = card.resized_side
        self.interpolation = card.interpolation

    def decode(self, content: bytes) -> torch.Tensor:
        """Decode to RGB, uint8 (3, height, width), channels last in memory; raise as ``image.decode``."""
        content = needed_parts(content)
        return self._decode(content, open_image(content, self._max_pixels))

    def _decode(self, content: bytes, image: Image.Image) -> torch.Tensor:
        if image.format == "JPEG" and image.mode in LIBJPEG_MODES:
            with suppress(ValueError):  # a flawed file: Pillow decodes it, or says why not
                return channels_first(simplejpeg.decode_jpeg(content))
        return pixels_of(image)

    def transform(self, pixels: torch.Tensor) -> torch.Tensor:
        """Resize the shorter side, crop the centre: uint8 (3, size, size)."""
        height, width = pixels.shape[1:]
        shorter = min(height, width)
        size = [int(self.resized * side / shorter) for side in (height, width)]
        if size != [height, width]:
            # In a batch of one, torch sees channels last only if the first stride is that of a whole image.
            batch = pixels.as_strided((1, 3, height, width), (pixels.numel(), 1, 3 * width, 3))
            pixels = torch.nn.functional.interpolate(batch, size, mode=self.interpolation, antialias=True)[0]
        top, left = (round((side - self.image_size) / 2) for side in size)
        return pixels[:, top : top + self.image_size, left : left + self.image_size]


class ScaledPreprocess(TorchvisionPreprocess):
    """Decodes JPEGs at a half, a quarter or an eighth of their size, where the model needs no more.

    libjpeg then inverts fewer coefficients of the cosine transform, and fewer pixels are resized. The pixels
    differ a little; plots/precisions.csv shows the effect on the answers.
    """

    def _decode(self, content: bytes, image: Image.Image) -> torch.Tensor:
        if image.format == "JPEG" and min(image.size) >= 2 * self.resized:
            image.draft(None, (self.resized, self.resized))  # the smallest scale that is at least as large
            return pixels_of(image)
        return super()._decode(content, image)


PREPROCESS: dict[str, type[TimmPreprocess | TorchvisionPreprocess]] = {
    "timm": TimmPreprocess,
    "torchvision": TorchvisionPreprocess,
    "scaled": ScaledPreprocess,
}


def pixels_of(image: Image.Image) -> torch.Tensor:
    """Decode an opened image by Pillow: RGB, uint8 (3, height, width); raise ImageError as ``to_rgb``."""
    return channels_first(np.array(to_rgb(image)))


def channels_first(pixels: NDArray[np.uint8]) -> torch.Tensor:
    """(height, width, 3) -> (3, height, width), in the same memory."""
    return torch.from_numpy(pixels).permute(2, 0, 1)


def stack_images(images: Sequence[torch.Tensor], device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """Stack preprocessed images, each (3, size, size), to a batch (N, 3, size, size) on ``device``.

    Floats become ``dtype``. uint8 pixels stay uint8 and channels last. They are copied to a GPU from
    page-locked memory, which torch keeps until the copy is done.
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
