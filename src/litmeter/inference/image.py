"""Image files -> RGB images, within limits.

A file of a few bytes can demand much memory and time, so its number of pixels, its aspect ratio and
its number of scans are checked before it is decoded.
"""

from __future__ import annotations

import io
import warnings

from PIL import Image, UnidentifiedImageError

from litmeter.inference.structure import TooManyPartsError, essential

FORMATS = ("JPEG", "PNG", "WEBP", "GIF")
"""Formats that browsers and cameras write; Pillow's other decoders are not used. Of a file with several
images (an animation, a stereo JPEG) the first is decoded."""
UNSUPPORTED = {
    "HEIC": (4, (b"ftyphei", b"ftyphev")),
    "HEIF": (4, (b"ftypmif1", b"ftypmsf1")),
    "AVIF": (4, (b"ftypavif", b"ftypavis")),
    "BMP": (0, (b"BM",)),
    "TIFF": (0, (b"II*\0", b"MM\0*")),
    "PDF": (0, (b"%PDF-",)),
}
"""Formats that are refused by name: offset of their signature in a file, and the possible signatures."""
JPEG_FORMATS = ("JPEG", "MPO")
"""MPO is Pillow's name for a JPEG file that holds several images."""
MAX_PIXELS = 50_000_000
"""Unless another limit is given. A decoded RGB image of 50 megapixels takes 150 MB."""
MAX_ASPECT = 100
"""Longer side over shorter: a strip of 65,000 x 1 pixels would be resized to 256 x 17 million."""
MAX_SCANS = 100
"""Of a JPEG. A progressive one has about ten; a scan can be 14 bytes long, and is decoded over all pixels."""


class ImageError(Exception):
    """Bytes that are not an image, or an image above a limit; ``status`` is the HTTP status of the answer."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


def decode(content: bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode ``content``, an image file of one of ``FORMATS``, to RGB.

    Raises:
        ImageError: 413 above a limit, 400 for anything that is not a whole image.
    """
    return to_rgb(open_image(needed_parts(content), max_pixels))


def needed_parts(content: bytes) -> bytes:
    """The parts of an image file that its pixels depend on: no decoder walks through the others.

    Raises:
        ImageError: 413 for more parts than an image has.
    """
    try:
        return essential(content)
    except TooManyPartsError as error:
        raise ImageError(413, f"image: {error}") from None


def open_image(content: bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Read the header of the image file ``content``, of ``needed_parts``, and check the limits.

    Nothing is decoded yet.

    Raises:
        ImageError: 413 above a limit, 400 for what does not begin as an image of one of ``FORMATS``.
    """
    # Pillow refuses images of more than twice this number, before it allocates memory for a WebP or a GIF.
    Image.MAX_IMAGE_PIXELS = max(1, max_pixels // 2)
    try:
        with warnings.catch_warnings():
            # Pillow warns of large images, and of flaws in files that it reads all the same.
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(content), formats=FORMATS)
    except Image.DecompressionBombError:
        raise ImageError(413, f"image: more than the {max_pixels} pixels allowed") from None
    except UnidentifiedImageError as error:
        raise ImageError(400, f"image: {_unsupported_reason(content)}") from error
    except Exception as error:  # Pillow's plugins raise whatever their parsers hit
        raise ImageError(400, f"image: not a readable image ({_reason(error)})") from error
    size = f"{image.width} x {image.height}"
    if image.width * image.height > max_pixels:
        raise ImageError(413, f"image: {size} pixels are more than the {max_pixels} allowed")
    if max(image.size) > MAX_ASPECT * min(image.size):
        raise ImageError(413, f"image: of {size} pixels one side is over {MAX_ASPECT} times the other")
    # FF DA is the marker of a scan; compressed data never contains it.
    if image.format in JPEG_FORMATS and content.count(b"\xff\xda") > MAX_SCANS:
        raise ImageError(413, f"image: a JPEG of more than {MAX_SCANS} scans")
    return image


def to_rgb(image: Image.Image) -> Image.Image:
    """Decode an opened image.

    Raises:
        ImageError: 400 where the file is truncated or damaged.
    """
    try:
        if image.mode == "I;16":  # a 16-bit grey PNG, whose values Pillow would clip instead of scaling
            image = image.point(lambda value: value / 256).convert("L")
        return image.convert("RGB")
    except Exception as error:  # Pillow's plugins raise whatever their parsers hit
        raise ImageError(400, f"image: not a readable image ({_reason(error)})") from error


def _unsupported_reason(content: bytes) -> str:
    """Why a file that is of none of ``FORMATS`` is refused."""
    if not content:
        return "empty"
    for name, (offset, signatures) in UNSUPPORTED.items():
        if content.startswith(signatures, offset):
            return f"{name} is not taken; JPEG, PNG, WebP and GIF are"
    return "not a readable image (unknown format: no JPEG, PNG, WebP or GIF)"


def _reason(error: Exception) -> str:
    """Pillow's message; the error's type where it has none."""
    return str(error) or type(error).__name__
