"""From bytes to an RGB image, or the reason why there is none; and no long walks through its parts."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from PIL import Image

from litmeter.classifier.model.image import MAX_JUNK, ImageError, decode, needed_parts
from tests.support.bad_images import chunk, saved
from tests.support.project import PHOTOS
from tests.unit.test_image_fuzz import FILES

MIB = 2**20


@cache
def photo() -> bytes:
    return sorted(PHOTOS.glob("*.jpg"))[0].read_bytes()


def pixels(content: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(content)) as image:
        return np.array(image.convert("RGB") if image.mode != "I;16" else image)


def segment(marker: int, data: bytes) -> bytes:
    return bytes([0xFF, marker]) + (len(data) + 2).to_bytes(2, "big") + data


def after_start(*parts: bytes) -> bytes:
    """The photo with ``parts`` right after its start."""
    return b"".join([photo()[:2], *parts, photo()[2:]])


def test_the_pixels_are_the_same() -> None:
    for path in sorted(PHOTOS.glob("*.jpg"))[::40]:
        content = path.read_bytes()
        assert (pixels(needed_parts(content)) == pixels(content)).all(), path
    for content in FILES:
        assert (pixels(needed_parts(content)) == pixels(content)).all()


def test_what_cameras_write_besides_is_left_out() -> None:
    exif = [segment(0xE1, b"Exif\0\0" + bytes(60_000)) for _ in range(60)]
    profile = [segment(0xE2, b"ICC_PROFILE\0" + bytes(60_000)) for _ in range(20)]
    resources = segment(0xED, b"Photoshop 3.0\0" + b"8BIM\x04\x04\0\0\0\0\0\0" * 5_000)
    film = b"\0\0\0\x18ftypmp42" + b"\xff\xda\0\x02" * 1_000 + bytes(5 * MIB)
    content = after_start(*exif, *profile, resources, segment(0xFE, b"a comment")) + film
    assert len(content) > 9 * MIB
    stripped = needed_parts(content)
    assert len(stripped) < len(photo()) + 100
    assert (pixels(stripped) == pixels(photo())).all()
    assert np.array(decode(content)).shape == pixels(photo()).shape


def test_adobes_segment_is_kept_as_colours_depend_on_it() -> None:
    with Image.open(io.BytesIO(photo())) as image:
        content = saved(image.convert("CMYK"), "JPEG")
    assert b"Adobe" in needed_parts(content)
    assert (pixels(needed_parts(content)) == pixels(content)).all()


def test_fill_bytes_and_some_junk_between_segments_are_skipped() -> None:
    content = after_start(b"\xff" * 100, segment(0xFE, b"x"), b"junk", b"\xff\0", b"\xff" * 9)
    assert (pixels(needed_parts(content)) == pixels(photo())).all()


def gif() -> bytes:
    return next(content for content in FILES if content.startswith(b"GIF"))


def gif_with(*extensions: bytes) -> bytes:
    """The GIF with extensions before all others."""
    content = gif()
    begin = 13 + 3 * 2 ** ((content[10] & 7) + 1)  # behind the header and the colour table
    return b"".join([content[:begin], *extensions, content[begin:]])


def test_fill_bytes_within_a_scan_are_few_and_the_pixels_the_same() -> None:
    for content in (FILES[0], FILES[1], photo()):
        end = content.index(b"\xff\xd9", content.index(b"\xff\xda"))
        filled = content[:end] + b"\xff" * MIB + content[end:]
        assert needed_parts(filled) == needed_parts(content)
        assert len(needed_parts(content[:end] + b"\xff" * MIB)) < len(content)
        table = content[:end] + segment(0xDB, b"\0" + b"\xff" * 64) + content[end:]
        assert needed_parts(table)[-len(content) :] == table[-len(content) :]


def test_restart_markers_are_no_parts() -> None:
    with Image.open(io.BytesIO(photo())) as image:
        content = saved(image.resize((1000, 1000)), "JPEG", restart_marker_blocks=1)
    assert content.count(b"\xff\xd3") > 100
    assert (pixels(needed_parts(content)) == pixels(content)).all()


def test_a_gifs_comments_and_some_junk_are_left_out() -> None:
    comment = b"!\xfe" + (b"\xff" + b"c" * 255) * 1_000 + b"\0"
    content = gif_with(b"xxx", comment, b"x", comment)
    assert len(needed_parts(content)) < len(gif()) + 100
    assert (pixels(needed_parts(content)) == pixels(content)).all()


def in_scan(parts: bytes) -> bytes:
    """The photo with ``parts`` in the middle of its last scan."""
    middle = (photo().rindex(b"\xff\xda") + len(photo())) // 2
    return photo()[:middle] + parts + photo()[middle:]


PNG = next(content for content in FILES if content.startswith(b"\x89PNG"))
HOSTILE: dict[str, Callable[[], bytes]] = {
    "empty APP1 segments": lambda: after_start(segment(0xE1, b"") * MIB),
    "empty comments": lambda: after_start(segment(0xFE, b"") * MIB),
    "empty tables": lambda: after_start(segment(0xDB, b"") * MIB),
    "lone markers": lambda: after_start(b"\xff\x01" * MIB),
    "extensions of JPG": lambda: after_start(b"\xff\xf2" * MIB),
    "JPG's marker": lambda: after_start(b"\xff\xc8" * MIB),
    "junk": lambda: after_start(segment(0xFE, b""), b"x" * (MAX_JUNK + 1)),
    "fill bytes": lambda: after_start(b"\xff" * (MAX_JUNK + 2)),
    "escaped bytes": lambda: after_start(b"\xff\0" * MIB),
    "APP1 segments within a scan": lambda: in_scan(segment(0xE1, b"x") * MIB),
    "APP1 segments within a scan without an end": lambda: in_scan(segment(0xE1, b"x") * MIB)[:-MIB],
    "empty tables within a scan": lambda: in_scan(segment(0xC4, b"") * MIB),
    "text chunks": lambda: PNG[:33] + chunk(b"tEXt", b"") * MIB + PNG[33:],
    "empty data chunks": lambda: PNG[:33] + chunk(b"IDAT", b"") * MIB + PNG[33:],
    "tiny comment blocks": lambda: gif_with(b"!\xfe" + b"\x01c" * MIB + b"\0"),
    "empty extensions": lambda: gif_with(b"!\xfe\0" * MIB),
    "bytes of no block": lambda: gif_with(b"x" * (MAX_JUNK + 1)),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_file_of_too_many_parts_is_refused(name: str) -> None:
    content = HOSTILE[name]()
    with pytest.raises(ImageError, match="image: ") as caught:
        needed_parts(content)
    assert caught.value.status == 413


@pytest.mark.parametrize("rest", [b"\xff" * MIB, b"x" * MIB, b"", b"\xff\xe1\xff", b"\xff\xe1"])
def test_a_start_without_a_picture_has_nothing_to_walk_through(rest: bytes) -> None:
    start = photo()[:2] + segment(0xE0, b"JFIF\0\x01\x01\0\0\x01\0\x01\0\0")
    assert len(needed_parts(start + rest)) <= len(start) + 4
    with pytest.raises(ImageError):
        decode(start + rest)
