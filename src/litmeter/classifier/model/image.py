"""Image files -> RGB images, within limits.

A file of a few bytes can demand much memory and time, so its number of pixels, its aspect ratio and
its number of scans are checked before it is decoded.

Nor are all of its parts given to a decoder. Pillow walks through JPEG segments, PNG chunks and GIF blocks in
Python, byte by byte where it finds none: a file of megabytes made of the shortest of them takes it seconds.
Here each walk ends after a number of steps that no camera reaches, and what the pixels do not depend on
(EXIF, XMP, ICC profiles, comments, films behind the end mark) is left out, so that nobody walks through it.
"""

from __future__ import annotations

import io
import re
import warnings

import numpy as np
from PIL import Image, UnidentifiedImageError

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
"""Scans of a JPEG. A progressive one has ten; one may be 14 bytes long; it is decoded over all pixels."""


class ImageError(Exception):
    """Bytes that are not an image, or an image above a limit; ``status`` is the HTTP status of the answer."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


def decode(content: bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode ``content``, an image file of one of ``FORMATS``, to RGB.

    Raise ImageError: 413 above a limit, 400 for anything that is not a whole image.
    """
    return to_rgb(open_image(needed_parts(content), max_pixels))


def open_image(content: bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Read the header of the image file ``content``, of ``needed_parts``, and check the limits.

    Raise ImageError: 413 above a limit, 400 for what does not begin as an image of one of ``FORMATS``.
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
        raise ImageError(
            400, f"image: not a readable image ({str(error) or type(error).__name__})"
        ) from error
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
    """Decode an opened image; raise ImageError, 400, where the file is truncated or damaged."""
    try:
        if image.mode == "I;16":  # a 16-bit grey PNG, whose values Pillow would clip instead of scaling
            image = image.point(lambda value: value / 256).convert("L")
        return image.convert("RGB")
    except Exception as error:  # Pillow's plugins raise whatever their parsers hit
        raise ImageError(
            400, f"image: not a readable image ({str(error) or type(error).__name__})"
        ) from error


def _unsupported_reason(content: bytes) -> str:
    if not content:
        return "empty"
    for name, (offset, signatures) in UNSUPPORTED.items():
        if content.startswith(signatures, offset):
            return f"{name} is not taken; JPEG, PNG, WebP and GIF are"
    return "not a readable image (unknown format: no JPEG, PNG, WebP or GIF)"


MAX_SEGMENTS = 2048
"""Markers of a JPEG before its first scan: 20 MB are 320 of the longest ones. And markers from there to its
end, but those within a scan's data: a progressive JPEG has some 30, and libjpeg walks through millions."""
MAX_CHUNKS = 8192
"""Chunks of a PNG: 20 MB are 8,000 of 2.4 KB, and encoders write 8 KB or more."""
MAX_EXTENSIONS, MAX_BLOCKS = 1024, 65_536
"""Extensions of a GIF before its first image, and blocks of all of them; one holds at most 255 bytes."""
MAX_JUNK = 65_536
"""Bytes between the parts of a JPEG or GIF; Pillow skips them, and so do others."""

SOI, EOI, SOS = b"\xff\xd8", b"\xff\xd9", 0xDA
NEEDED_APPS = (0xE0, 0xEE)
"""APP0 is JFIF's header; APP14 is Adobe's, which says how colours are coded."""
COMMENT = 0xFE
LONE_MARKERS = (0x01, *range(0xD0, 0xDA), 0xC8, *range(0xF0, 0xFE))
"""Without a length: TEM, RST0 to RST7, SOI, EOI. And JPG with its extensions, which no decoder knows: Pillow
looks for the next marker within them."""
FILL = re.compile(rb"\xff+")
LONG_FILL = b"\xff" * 1024
LONG_FILLS = re.compile(LONG_FILL + rb"\xff*")
"""Runs of 0xFF within scans, of which one byte is kept: a marker may follow any number of them, and Pillow
copies the whole run again for each 64 KiB that it reads. No table has more than 256 in a row."""

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
NEEDED_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
CHUNK_FRAME = 12
"""Bytes of a chunk besides its data: length, type and checksum."""

GIF_SIGNATURES = (b"GIF87a", b"GIF89a")
GIF_BLOCK = re.compile(rb"[!,;]")
"""First byte of an extension, of an image, and of the end."""
GRAPHIC_CONTROL = b"\xf9"
"""The extension with the transparent colour."""


def needed_parts(content: bytes) -> bytes:
    """An image file without the parts that its pixels do not depend on: no decoder walks through them.

    A file that ends too early ends too early in the result, too; other formats are returned as they are.
    Raise ImageError, 413, for more parts, or more bytes between them, than the constants above allow.
    """
    for signatures, needed in ((SOI + b"\xff", _jpeg), (PNG_SIGNATURE, _png), (GIF_SIGNATURES, _gif)):
        if content.startswith(signatures):
            return needed(content)
    return content


def _too_many(what: str) -> ImageError:
    return ImageError(413, f"image: {what}")


def _jpeg(content: bytes) -> bytes:
    kept, place, junk = [SOI], len(SOI), 0
    for _ in range(MAX_SEGMENTS):
        marker_begin = content.find(b"\xff", place)
        fill = FILL.match(content, marker_begin) if marker_begin >= 0 else None
        if fill is None or fill.end() == len(content):
            return b"".join(kept)
        junk += fill.end() - 1 - place
        if junk > MAX_JUNK:
            raise _too_many(f"more than {MAX_JUNK} bytes that belong to no segment")
        marker = content[fill.end()]
        begin, place = fill.end() - 1, fill.end() + 1
        if marker == SOS:
            end = content.find(EOI, place)
            scans = content[begin : end + len(EOI) if end >= 0 else len(content)]
            if _markers(scans) > MAX_SEGMENTS:
                raise _too_many(f"a JPEG of more than {MAX_SEGMENTS} markers from its first scan on")
            return b"".join([*kept, LONG_FILLS.sub(b"\xff", scans) if LONG_FILL in scans else scans])
        if marker == 0x00 or marker in LONE_MARKERS:
            continue
        place += max(2, int.from_bytes(content[place : place + 2], "big"))
        if marker in NEEDED_APPS or not (0xE0 <= marker <= 0xEF or marker == COMMENT):
            kept.append(content[begin:place])
    raise _too_many(f"a JPEG of more than {MAX_SEGMENTS} segments")


def _markers(scans: bytes) -> int:
    """How many markers there are from a JPEG's first scan on, besides those within the scans' data."""
    octets = np.frombuffer(scans, np.uint8)
    first, second = octets[:-1], octets[1:]
    restart = second & 0xF8 == 0xD0
    in_data = restart | (second == 0x00) | (second == 0xFF)  # or an escaped 0xFF, or a fill byte
    return int(np.count_nonzero((first == 0xFF) & ~in_data))


def _png(content: bytes) -> bytes:
    kept, place = [PNG_SIGNATURE], len(PNG_SIGNATURE)
    for _ in range(MAX_CHUNKS):
        kind = content[place + 4 : place + 8]
        if len(kind) < 4:
            return b"".join(kept)
        begin, place = place, place + CHUNK_FRAME + int.from_bytes(content[place : place + 4], "big")
        if kind in NEEDED_CHUNKS:
            kept.append(content[begin:place])
        if kind == b"IEND":
            return b"".join(kept)
    raise _too_many(f"a PNG of more than {MAX_CHUNKS} chunks")


def _gif(content: bytes) -> bytes:
    if len(content) < 13:
        return content
    flags = content[10]
    place = 13 + (3 << ((flags & 0x07) + 1) if flags & 0x80 else 0)  # behind the colour table
    kept, extensions, blocks = [content[:place]], 0, 0
    while (found := GIF_BLOCK.search(content, place, place + MAX_JUNK)) and found[0] == b"!":
        begin, place, length = found.start(), found.start() + 2, 1
        extensions += 1
        if extensions > MAX_EXTENSIONS:
            raise _too_many(f"a GIF with more than {MAX_EXTENSIONS} extensions before its first image")
        while length:
            blocks += 1
            if blocks > MAX_BLOCKS:
                raise _too_many(f"a GIF with more than {MAX_BLOCKS} blocks before its first image")
            length = content[place] if place < len(content) else 0
            place += 1 + length
        if content[begin + 1 : begin + 2] == GRAPHIC_CONTROL:
            kept.append(content[begin:place])
    if found is None and place + MAX_JUNK < len(content):
        raise _too_many(f"more than {MAX_JUNK} bytes that belong to no block")
    return b"".join([*kept, content[found.start() :] if found else b""])
