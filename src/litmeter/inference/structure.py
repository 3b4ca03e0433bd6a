"""The parts of an image file that its pixels depend on, found in a bounded number of steps.

Pillow walks through JPEG segments, PNG chunks and GIF blocks in Python, byte by byte where it finds none: a
file of megabytes made of the shortest of them takes it seconds. Here each walk ends after a number of steps
that no camera reaches, and what decoders do not need (EXIF, XMP, ICC profiles, comments, films behind the end
mark) is left out, so that nobody walks through it.
"""

from __future__ import annotations

import re

import numpy as np

MAX_SEGMENTS = 2048
"""Of a JPEG before its first scan: 20 MB are 320 of the longest ones. And markers from there to its end, but
those that stand within a scan's data: a progressive JPEG has some 30, and libjpeg walks through millions."""
MAX_CHUNKS = 8192
"""Of a PNG: 20 MB are 8,000 of 2.4 KB, and encoders write 8 KB or more."""
MAX_EXTENSIONS, MAX_BLOCKS = 1024, 65_536
"""Of a GIF before its first image, and of all these extensions together; a block holds at most 255 bytes."""
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


class TooManyPartsError(Exception):
    """A file of more parts, or more junk between them, than an image has."""


def essential(content: bytes) -> bytes:
    """``content`` without the parts that its pixels do not depend on.

    A file that ends too early ends too early in the result, too; other formats are returned as they are.

    Raises:
        TooManyPartsError: more parts than MAX_SEGMENTS, MAX_CHUNKS, MAX_EXTENSIONS or MAX_BLOCKS, or more
            than MAX_JUNK bytes between them.
    """
    if content.startswith(SOI + b"\xff"):
        return _jpeg(content)
    if content.startswith(PNG_SIGNATURE):
        return _png(content)
    if content.startswith(GIF_SIGNATURES):
        return _gif(content)
    return content


def _jpeg(content: bytes) -> bytes:
    kept, place, junk = [SOI], len(SOI), 0
    for _ in range(MAX_SEGMENTS):
        marker_begin = content.find(b"\xff", place)
        fill = FILL.match(content, marker_begin) if marker_begin >= 0 else None
        if fill is None or fill.end() == len(content):
            return b"".join(kept)
        junk += fill.end() - 1 - place
        if junk > MAX_JUNK:
            raise TooManyPartsError(f"more than {MAX_JUNK} bytes that belong to no segment")
        marker = content[fill.end()]
        begin, place = fill.end() - 1, fill.end() + 1
        if marker == SOS:
            end = content.find(EOI, place)
            scans = content[begin : end + len(EOI) if end >= 0 else len(content)]
            if _markers(scans) > MAX_SEGMENTS:
                raise TooManyPartsError(f"a JPEG of more than {MAX_SEGMENTS} markers from its first scan on")
            return b"".join([*kept, LONG_FILLS.sub(b"\xff", scans) if LONG_FILL in scans else scans])
        if marker == 0x00 or marker in LONE_MARKERS:
            continue
        place += max(2, int.from_bytes(content[place : place + 2], "big"))
        if marker in NEEDED_APPS or not (0xE0 <= marker <= 0xEF or marker == COMMENT):
            kept.append(content[begin:place])
    raise TooManyPartsError(f"a JPEG of more than {MAX_SEGMENTS} segments")


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
    raise TooManyPartsError(f"a PNG of more than {MAX_CHUNKS} chunks")


def _gif(content: bytes) -> bytes:
    if len(content) < 13:
        return content
    place = 13 + _colour_table_bytes(content[10])
    kept, extensions, blocks = [content[:place]], 0, 0
    while (found := GIF_BLOCK.search(content, place, place + MAX_JUNK)) and found[0] == b"!":
        begin, place, length = found.start(), found.start() + 2, 1
        extensions += 1
        if extensions > MAX_EXTENSIONS:
            raise TooManyPartsError(
                f"a GIF with more than {MAX_EXTENSIONS} extensions before its first image"
            )
        while length:
            blocks += 1
            if blocks > MAX_BLOCKS:
                raise TooManyPartsError(f"a GIF with more than {MAX_BLOCKS} blocks before its first image")
            length = content[place] if place < len(content) else 0
            place += 1 + length
        if content[begin + 1 : begin + 2] == GRAPHIC_CONTROL:
            kept.append(content[begin:place])
    if found is None and place + MAX_JUNK < len(content):
        raise TooManyPartsError(f"more than {MAX_JUNK} bytes that belong to no block")
    return b"".join([*kept, content[found.start() :] if found else b""])


def _colour_table_bytes(flags: int) -> int:
    """Length of the colour table that a GIF's flags announce."""
    return 3 << ((flags & 0x07) + 1) if flags & 0x80 else 0
