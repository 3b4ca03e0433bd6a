"""Image files -> RGB images, within limits.

A file of a few bytes can demand much memory and time, so its number of pixels, its aspect ratio and
its number of scans are checked before it is decoded.

Decoders get the parts of a file that its pixels depend on, and no others. Pillow walks through JPEG segments,
PNG chunks and GIF blocks in Python, and reads EXIF, ICC profiles, comments and compressed texts: a file of
20 MB that consists of these alone would take it seconds.
"""

from __future__ import annotations

import io
import re
import warnings

from PIL import Image, UnidentifiedImageError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF")
"""Formats of browsers and cameras; Pillow's other decoders are not used. The first image of an animation or a
stereo JPEG is decoded."""
UNSUPPORTED = {
    "HEIC": (4, (b"ftyphei", b"ftyphev")),
    "HEIF": (4, (b"ftypmif1", b"ftypmsf1")),
    "AVIF": (4, (b"ftypavif", b"ftypavis")),
    "BMP": (0, (b"BM",)),
    "TIFF": (0, (b"II*\0", b"MM\0*")),
    "PDF": (0, (b"%PDF-",)),
}
"""Formats that are refused by name: the offset of their signature, and the possible signatures."""
MAX_PIXELS = 50_000_000
"""The default limit. A decoded RGB image of 50 megapixels takes 150 MB."""
MAX_ASPECT = 100
"""Longer side over shorter side: a strip of 65,000 x 1 pixels would be resized to 256 x 17 million."""
MAX_SCANS = 100
"""Of a JPEG. Progressive ones have ten or so; a scan of 14 bytes goes over all pixels."""
MAX_SCANS_OF_LARGEST = 12
"""Of a JPEG with as many pixels as are allowed; smaller ones may have as many more."""


class ImageError(Exception):
    """The bytes are no image, or the image is above a limit; ``status`` is the HTTP status of the answer."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


def decode(content: bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode ``content``, an image file of one of ``FORMATS``, to RGB.

    Raise ImageError: 413 above a limit, 400 for anything that is not a whole image; or MemoryError.
    """
    return to_rgb(open_image(needed_parts(content), max_pixels))


def open_image(content: bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Read the header of an image file, cut down by ``needed_parts``, and check the limits.

    Raise ImageError: 413 above a limit, 400 where it is not the header of one of ``FORMATS``.
    """
    # Pillow refuses more than twice this number before it allocates memory for a WebP or a GIF.
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
        raise _unreadable(error) from error
    size = f"{image.width} x {image.height}"
    if image.width * image.height > max_pixels:
        raise ImageError(413, f"image: {size} pixels are more than the {max_pixels} allowed")
    if max(image.size) > MAX_ASPECT * min(image.size):
        raise ImageError(413, f"image: of {size} pixels one side is over {MAX_ASPECT} times the other")
    scans = content.count(b"\xff\xda") if image.format == "JPEG" else 0  # compressed data never contains it
    if scans > min(MAX_SCANS, MAX_SCANS_OF_LARGEST * max_pixels // (image.width * image.height)):
        raise ImageError(413, f"image: a JPEG of {scans} scans of {size} pixels")
    image.decodermaxblock = len(content)  # for each block, Pillow copies all that its decoder left
    return image


def to_rgb(image: Image.Image) -> Image.Image:
    """Decode an opened image; raise ImageError, 400, where the file is truncated or damaged."""
    try:
        if image.mode == "I;16":  # a 16-bit grey PNG, whose values Pillow would clip instead of scaling
            image = image.point(lambda value: value / 256).convert("L")
        return image.convert("RGB")
    except Exception as error:  # Pillow's plugins raise whatever their parsers hit
        raise _unreadable(error) from error


def _unreadable(error: Exception) -> ImageError | MemoryError:
    if isinstance(error, MemoryError) or "out of memory" in str(error):  # as Pillow's decoders in C say
        return MemoryError(str(error))
    return ImageError(400, f"image: not a readable image ({str(error) or type(error).__name__})")


def _unsupported_reason(content: bytes) -> str:
    if not content:
        return "empty"
    for name, (offset, signatures) in UNSUPPORTED.items():
        if content.startswith(signatures, offset):
            return f"{name} is not taken; JPEG, PNG, WebP and GIF are"
    return "not a readable image (unknown format: no JPEG, PNG, WebP or GIF)"


MAX_PARTS = 8192
"""Segments of a JPEG before its first scan, chunks of a PNG, or blocks of a GIF before its first image.
Encoders of PNG write 8 KB or more in a chunk."""
MAX_TABLES_BYTES = 65_536
"""Needed segments of a JPEG before its first scan. A photo has less than 2 KB of them."""

SOI, EOI, SOS = b"\xff\xd8", b"\xff\xd9", 0xDA
NEEDED_SEGMENTS = {*range(0xC0, 0xD0), 0xDB, 0xDD, 0xE0, 0xEE}
"""The frame and its tables, JFIF's header (APP0), and Adobe's (APP14), which says how colours are coded."""
WITHOUT_LENGTH = {0x00, 0x01, *range(0xD0, 0xDA)}
"""Markers that no segment follows; 0xFF 0x00 is no marker at all."""
FILL = re.compile(rb"\xff+")

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
NEEDED_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
CHUNK_FRAME = 12
"""Bytes of a chunk besides its data: length, type and checksum."""

GIF_SIGNATURES = (b"GIF87a", b"GIF89a")
GIF_PART = re.compile(rb"[!,;]")
"""First byte of an extension, of an image, and of the end."""
GRAPHIC_CONTROL = b"\xf9"
"""The extension with the transparent colour."""


def needed_parts(content: bytes) -> bytes:
    """An image file without the parts that its pixels do not depend on; a truncated file stays truncated.

    WebP and unknown formats are returned as they are: no decoder walks through them in Python.
    Raise ImageError, 413, above MAX_PARTS or MAX_TABLES_BYTES.
    """
    for signatures, needed in ((SOI + b"\xff", _jpeg), (PNG_SIGNATURE, _png), (GIF_SIGNATURES, _gif)):
        if content.startswith(signatures):
            return b"".join(needed(content))
    return content


TOO_MANY = f"image: more than {MAX_PARTS} segments, chunks or blocks"


def _jpeg(content: bytes) -> list[bytes]:
    kept, place, size = [SOI], len(SOI), 0
    for _ in range(MAX_PARTS):
        # What stands before a marker belongs to no segment, and any number of 0xFF may precede its code.
        place = content.find(b"\xff", place)
        fill = FILL.match(content, place) if place >= 0 else None
        if fill is None or fill.end() == len(content):
            return kept
        begin, code, place = fill.end() - 1, content[fill.end()], fill.end() + 1
        if code == SOS:
            return [*kept, *content[begin:].partition(EOI)[:2]]  # a film may follow
        if code in WITHOUT_LENGTH:
            continue
        place += max(2, int.from_bytes(content[place : place + 2], "big"))
        if code in NEEDED_SEGMENTS:
            kept.append(content[begin:place])
            size += len(kept[-1])
            if size > MAX_TABLES_BYTES:
                raise ImageError(413, f"image: a JPEG with more than {MAX_TABLES_BYTES} bytes of tables")
    raise ImageError(413, TOO_MANY)


def _png(content: bytes) -> list[bytes]:
    kept, place = [PNG_SIGNATURE], len(PNG_SIGNATURE)
    for _ in range(MAX_PARTS):
        kind = content[place + 4 : place + 8]
        begin, place = place, place + CHUNK_FRAME + int.from_bytes(content[place : place + 4], "big")
        if kind in NEEDED_CHUNKS:
            kept.append(content[begin:place])
        if kind == b"IEND" or place >= len(content):
            return kept
    raise ImageError(413, TOO_MANY)


def _gif(content: bytes) -> list[bytes]:
    flags = content[10] if len(content) > 10 else 0
    place = 13 + (3 << (flags & 0x07) + 1 if flags & 0x80 else 0)  # behind the header and its colour table
    kept, blocks = [content[:place]], 0
    while (part := GIF_PART.search(content, place)) and part[0] == b"!":
        place, size = part.end() + 1, 1
        while size:  # a block of no bytes ends an extension
            size = content[place] if place < len(content) else 0
            place += 1 + size
            blocks += 1
            if blocks > MAX_PARTS:
                raise ImageError(413, TOO_MANY)
        if content.startswith(GRAPHIC_CONTROL, part.end()):
            kept.append(content[part.start() : place])
    return [*kept, content[part.start() :]] if part else kept
