"""Image bytes -> RGB image, or the reason why not.

What a few bytes can ask for is checked before it is done: how many pixels, how often they are gone
through, and how many there would be once the shorter side has the model's size.
"""

from __future__ import annotations

import io
import warnings

from PIL import Image, UnidentifiedImageError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF")
"""What browsers and cameras write; no other of Pillow's decoders is reached. Of several images in a
file (an animation, a stereo JPEG) the first is taken."""
NOT_TAKEN = {
    "HEIC": (4, (b"ftyphei", b"ftyphev")),
    "HEIF": (4, (b"ftypmif1", b"ftypmsf1")),
    "AVIF": (4, (b"ftypavif", b"ftypavis")),
    "BMP": (0, (b"BM",)),
    "TIFF": (0, (b"II*\0", b"MM\0*")),
    "PDF": (0, (b"%PDF-",)),
}
"""What people send all the same: at which byte a file of it has one of which marks. Only to name it in its
refusal: none of it is read any further."""
JPEG_FORMATS = ("JPEG", "MPO")
"""MPO is Pillow's name for a JPEG file that holds several images."""
MAX_PIXELS = 50_000_000
"""Larger images are refused before they are decoded: a 50-megapixel RGB image takes 150 MB."""
MAX_ASPECT = 100
"""Longer side over shorter: a strip of 65,000 x 1 pixels would be resized to 256 x 17 million."""
MAX_SCANS = 100
"""Of a JPEG. A progressive one has ten or so; each takes 14 bytes, and goes through all the pixels."""

# Pillow refuses twice this many, and does so before a WebP or a GIF gets any memory.
Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2


class ImageError(Exception):
    """Bytes that are not an image to be classified; ``status`` is the HTTP status that says so."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


def decode(content: bytes) -> Image.Image:
    """The RGB image in ``content``, an image file of one of ``FORMATS``.

    Raises:
        ImageError: 413 above a limit, 400 for anything that is not a whole image.
    """
    return to_rgb(open_image(content))


def open_image(content: bytes) -> Image.Image:
    """The image in ``content`` with its header read and its size allowed, not yet decoded.

    Raises:
        ImageError: 413 above a limit, 400 for what does not begin as an image of one of ``FORMATS``.
    """
    try:
        with warnings.catch_warnings():
            # Of half a bomb, or of a file that is read in spite of its flaws: nobody would act on it.
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(content), formats=FORMATS)
    except Image.DecompressionBombError:
        raise ImageError(413, f"image: more than the {MAX_PIXELS} pixels allowed") from None
    except UnidentifiedImageError as error:
        raise ImageError(400, f"image: {_unknown(content)}") from error
    except Exception as error:  # Pillow's plugins raise whatever their parsers hit
        raise ImageError(400, f"image: not a readable image ({_reason(error)})") from error
    size = f"{image.width} x {image.height}"
    if image.width * image.height > MAX_PIXELS:
        raise ImageError(413, f"image: {size} pixels are more than the {MAX_PIXELS} allowed")
    if max(image.size) > MAX_ASPECT * min(image.size):
        raise ImageError(413, f"image: of {size} pixels one side is over {MAX_ASPECT} times the other")
    # Within compressed data a byte 0xFF is never followed by 0xDA: these are the scans.
    if image.format in JPEG_FORMATS and content.count(b"\xff\xda") > MAX_SCANS:
        raise ImageError(413, f"image: a JPEG of more than {MAX_SCANS} scans")
    return image


def to_rgb(image: Image.Image) -> Image.Image:
    """Decode an opened image.

    Raises:
        ImageError: 400 where it is not whole.
    """
    try:
        if image.mode == "I;16":  # a 16-bit grey PNG, whose values Pillow would clip instead of scaling
            image = image.point(lambda value: value / 256).convert("L")
        return image.convert("RGB")
    except Exception as error:  # Pillow's plugins raise whatever their parsers hit
        raise ImageError(400, f"image: not a readable image ({_reason(error)})") from error


def _unknown(content: bytes) -> str:
    """What is wrong with a file that is of none of ``FORMATS``."""
    if not content:
        return "empty"
    for name, (start, beginnings) in NOT_TAKEN.items():
        if content.startswith(beginnings, start):
            return f"{name} is not taken; JPEG, PNG, WebP and GIF are"
    return "not a readable image (unknown format: no JPEG, PNG, WebP or GIF)"


def _reason(error: Exception) -> str:
    """Pillow's."""
    return str(error) or type(error).__name__
