"""Image bytes -> RGB image, or the reason why not."""

from __future__ import annotations

import io
import warnings

from PIL import Image, UnidentifiedImageError

MAX_PIXELS = 50_000_000
"""Larger images are refused before they are decoded: a 50-megapixel RGB image takes 150 MB."""


class ImageError(Exception):
    """Bytes that are not an image to be classified; ``status`` is the HTTP status that says so."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


def decode(content: bytes) -> Image.Image:
    """The RGB image in ``content``, an image file of any format that Pillow reads.

    Raises:
        ImageError: 413 above ``MAX_PIXELS``, 400 for anything that is not a whole image.
    """
    return to_rgb(open_image(content))


def open_image(content: bytes) -> Image.Image:
    """The image in ``content`` with its header read and its size allowed, not yet decoded.

    Raises:
        ImageError: 413 above ``MAX_PIXELS``, 400 for what does not begin as an image.
    """
    try:
        with warnings.catch_warnings():
            # Pillow only warns of a bomb up to twice its own limit; ours is checked below.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(content))
    except Image.DecompressionBombError:
        raise ImageError(413, f"image: more than the {MAX_PIXELS} pixels allowed") from None
    except Exception as error:  # Pillow's plugins raise whatever their parsers hit
        raise ImageError(400, f"image: not a readable image ({_reason(error)})") from error
    if image.width * image.height > MAX_PIXELS:
        size = f"{image.width} x {image.height}"
        raise ImageError(413, f"image: {size} pixels are more than the {MAX_PIXELS} allowed")
    return image


def to_rgb(image: Image.Image) -> Image.Image:
    """Decode an opened image.

    Raises:
        ImageError: 400 where it is not whole.
    """
    try:
        return image.convert("RGB")
    except Exception as error:  # Pillow's plugins raise whatever their parsers hit
        raise ImageError(400, f"image: not a readable image ({_reason(error)})") from error


def _reason(error: Exception) -> str:
    """Pillow's reason, without the address of the buffer it read from."""
    if isinstance(error, UnidentifiedImageError):
        return "unknown format"
    return str(error) or type(error).__name__
