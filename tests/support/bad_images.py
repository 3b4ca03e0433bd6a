"""Image files that a stranger might send: broken, lying, unusual, or something else altogether."""

from __future__ import annotations

import io
import random
import struct
import zipfile
import zlib

from PIL import Image

PNG_HEAD = b"\x89PNG\r\n\x1a\n"


def saved(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def picture(photo: bytes, mode: str = "RGB") -> Image.Image:
    """The photo, small."""
    with Image.open(io.BytesIO(photo)) as image:
        return image.convert("RGB").resize((120, 90)).convert(mode)


def chunk(kind: bytes, content: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + checksum


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *more: bytes) -> bytes:
    """A PNG file that claims this size, whatever it holds."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return PNG_HEAD + head + b"".join(more) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def with_16_bits(photo: bytes, mode: str) -> bytes:
    """The photo, grey ("L") or in colour ("RGB"), as a PNG with two bytes for each value."""
    image = picture(photo, mode)
    pixels = image.tobytes()
    line = len(pixels) // image.height
    rows = (pixels[start : start + line] for start in range(0, len(pixels), line))
    # The low byte of each value repeats the high one.
    wide = b"".join(b"\0" + bytes(byte for byte in row for _ in range(2)) for row in rows)
    return png(image.width, image.height, 16, 0 if mode == "L" else 2, wide)


def animated(photo: bytes, form: str, **options: object) -> bytes:
    """The photo, and then a green frame."""
    green = Image.new("RGB", (120, 90), (0, 255, 0))
    return saved(picture(photo), form, save_all=True, append_images=[green], duration=100, **options)


def stereo(photo: bytes) -> bytes:
    """A JPEG file with two images, as phones and 3D cameras write them."""
    return saved(picture(photo), "MPO", save_all=True, append_images=[picture(photo).rotate(90)])


def gif_of(width: int, height: int) -> bytes:
    """A GIF file that claims this size for its canvas and its frame."""
    canvas = struct.pack("<HH", width, height) + b"\x80\0\0" + b"\0\0\0\xff\xff\xff"
    return b"GIF89a" + canvas + b"\x2c" + struct.pack("<HHHH", 0, 0, width, height) + b"\0\x02\x02\x44\x01\0;"


def webp_of(width: int, height: int) -> bytes:
    """A WebP file that claims this size."""
    claims = b"".join((side - 1).to_bytes(3, "little") for side in (width, height))
    content = b"WEBPVP8X" + struct.pack("<I", 10) + b"\x10\0\0\0" + claims
    return b"RIFF" + struct.pack("<I", len(content)) + content


def isobmff(brand: bytes) -> bytes:
    """The beginning of a file of boxes: HEIC, AVIF and MP4 differ in the brand."""
    return struct.pack(">I", 24) + b"ftyp" + brand + bytes(4) + b"mif1" + brand + bytes(40)


def jpeg_of(photo: bytes, width: int, height: int) -> bytes:
    """The photo, whose header claims another size."""
    place = photo.index(b"\xff\xc0") + 5
    return photo[:place] + struct.pack(">HH", height, width) + photo[place + 4 :]


def many_scans(times: int, side: int = 2000) -> bytes:
    """A progressive JPEG whose last scan is repeated: 14 bytes each, and each goes through all pixels."""
    whole = saved(Image.new("L", (side, side), 100), "JPEG", progressive=True)
    return whole[:-2] + whole[whole.rindex(b"\xff\xda") : -2] * times + whole[-2:]


def flipped(content: bytes, start: int, bits: int, seed: int = 0) -> bytes:
    """With so many bits from ``start`` on turned over."""
    changed, places = bytearray(content), random.Random(seed)
    for _ in range(bits):
        changed[places.randrange(start, len(content))] ^= 1 << places.randrange(8)
    return bytes(changed)


def with_zip(content: bytes) -> bytes:
    """An image that is a ZIP archive as well."""
    buffer = io.BytesIO(content)
    buffer.seek(0, io.SEEK_END)
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr("inside.txt", "hello")
    return buffer.getvalue()


def text_bomb() -> bytes:
    """A PNG whose compressed comment is a thousand times larger once it is read."""
    comment = b"Comment\0\0" + zlib.compress(bytes(50_000_000))
    return png(4, 4, 8, 0, bytes(20), chunk(b"zTXt", comment))
