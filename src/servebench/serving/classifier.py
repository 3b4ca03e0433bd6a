"""The exported model on a device: image bytes -> tensor -> probabilities.

The server's workers and the in-process baseline run this very code, so their rates compare.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, UnidentifiedImageError
from safetensors.torch import load_file

from servebench.model import WEIGHTS_NAME, read_card

MAX_PIXELS = 50_000_000
"""Larger images are refused before they are decoded: a 50-megapixel RGB image takes 150 MB."""


class ImageError(Exception):
    """Bytes that are not an image to be classified; ``status`` is the HTTP status that says so."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Classifier:
    """An exported model, ready to answer.

    Args:
        folder: where ``export`` put weights and card.
        device: ``cpu`` or ``cuda``, with an index or without.
        precision: ``full`` (float32) or ``half`` (float16 on a GPU, bfloat16 on a CPU).
    """

    def __init__(self, folder: Path, device: str, precision: str) -> None:
        self.card = read_card(folder)
        self.device = torch.device(device)
        self.dtype = dtype_of(precision, self.device.type)
        # Full precision means IEEE float32: without this, convolutions on a GPU run in TF32.
        torch.backends.cudnn.allow_tf32 = False
        model = self.card.build()
        model.load_state_dict(load_file(folder / WEIGHTS_NAME))
        self.model = model.to(self.device, self.dtype)
        self.transform = self.card.transform()

    def preprocess(self, content: bytes) -> torch.Tensor:
        """Decode and transform one image file: float32 tensor (3, size, size) on the CPU.

        Raises:
            ImageError: ``content`` is not a whole image, or is too large to decode.
        """
        tensor: torch.Tensor = self.transform(decode(content))
        return tensor

    def predict(self, images: Sequence[torch.Tensor]) -> torch.Tensor:
        """Class probabilities, float32 (N, classes) on the CPU, of preprocessed images."""
        return self.forward(torch.stack(list(images)).to(self.device, self.dtype)).cpu()

    @torch.inference_mode()
    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        """Class probabilities, float32 (N, classes), of a batch on the device in its dtype."""
        logits: torch.Tensor = self.model(batch)
        return logits.float().softmax(dim=1)


def dtype_of(precision: str, device_type: str) -> torch.dtype:
    """The number format of a precision: half is what the hardware computes fastest."""
    if precision == "full":
        return torch.float32
    return torch.bfloat16 if device_type == "cpu" else torch.float16


def decode(content: bytes) -> Image.Image:
    """The RGB image in ``content``, an image file of any format that Pillow reads.

    Raises:
        ImageError: 413 above ``MAX_PIXELS``, 400 for anything that is not a whole image.
    """
    try:
        with warnings.catch_warnings():
            # Pillow only warns of a bomb up to twice its own limit; ours is checked below.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(content))
        if image.width * image.height > MAX_PIXELS:
            size = f"{image.width} x {image.height}"
            raise ImageError(413, f"image: {size} pixels are more than the {MAX_PIXELS} allowed")
        return image.convert("RGB")
    except ImageError:
        raise
    except Image.DecompressionBombError:
        raise ImageError(413, f"image: more than the {MAX_PIXELS} pixels allowed") from None
    except Exception as error:  # Pillow's plugins raise whatever their parsers hit
        raise ImageError(400, f"image: not a readable image ({_reason(error)})") from error


def _reason(error: Exception) -> str:
    """Pillow's reason, without the address of the buffer it read from."""
    if isinstance(error, UnidentifiedImageError):
        return "unknown format"
    return str(error) or type(error).__name__
