"""Image files: arbitrary bytes get an image of the right shape, or a refusal; and no file costs much."""

from __future__ import annotations

import io
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings, target
from hypothesis import strategies as st
from PIL import Image

from litmeter.classifier.model.card import read_card
from litmeter.classifier.model.image import ImageError, decode, needed_parts, open_image
from litmeter.classifier.model.preprocess import TimmPreprocess, TorchvisionPreprocess
from litmeter.paths import ModelFolders
from tests.support.bad_images import chunk, many_scans, saved
from tests.support.project import PHOTOS

Decoders = tuple[TimmPreprocess, TorchvisionPreprocess]
BRIEF = settings(max_examples=150, deadline=None, derandomize=True, database=None)
LONG = settings(max_examples=20_000, deadline=None, database=None, print_blob=True)


def files() -> list[bytes]:
    """One small file of every kind that is taken."""
    with Image.open(sorted(PHOTOS.glob("*.jpg"))[0]) as photo:
        image = photo.convert("RGB").resize((64, 48))
    kinds: list[tuple[str, str, dict[str, Any]]] = [
        ("RGB", "JPEG", {}),
        ("RGB", "JPEG", {"progressive": True}),
        ("CMYK", "JPEG", {}),
        ("L", "JPEG", {}),
        ("RGB", "MPO", {"save_all": True, "append_images": [image]}),
        ("RGB", "PNG", {}),
        ("P", "PNG", {}),
        ("RGBA", "PNG", {"save_all": True, "append_images": [image]}),
        ("I;16", "PNG", {}),
        ("RGB", "WEBP", {}),
        ("RGBA", "WEBP", {"lossless": True, "save_all": True, "append_images": [image]}),
        ("P", "GIF", {"save_all": True, "append_images": [image]}),
    ]
    return [
        saved(image.convert("L" if mode == "I;16" else mode).convert(mode), form, **options)
        for mode, form, options in kinds
    ]


FILES = files()
PLACE = st.floats(0, 1, exclude_max=True, allow_subnormal=False)
"""As a share of the file; most of what matters stands at its beginning."""
Edit = Callable[[bytearray], None]


@st.composite
def edits(draw: st.DrawFn) -> Edit:
    """A flip, a cut, a splice or a repetition."""
    start, length = draw(PLACE) ** 2, draw(st.integers(1, 40))
    kind = draw(st.sampled_from(["flip", "cut", "end", "splice", "insert", "repeat"]))
    other, new = draw(st.sampled_from(FILES)), draw(st.binary(min_size=1, max_size=8))

    def apply(content: bytearray) -> None:
        at = int(start * len(content))
        if kind == "flip":
            content[at : at + len(new)] = new
        elif kind == "cut":
            del content[at : at + length]
        elif kind == "end":
            del content[at:]
        elif kind == "splice":
            content[at:] = other[int(start * len(other)) :]
        elif kind == "insert":
            content[at:at] = new
        else:
            content[at:at] = content[at : at + length] * length

    return apply


@pytest.fixture(scope="module")
def decoders(exported: ModelFolders) -> Decoders:
    card = read_card(exported.exported)
    return TimmPreprocess(card), TorchvisionPreprocess(card)


def check(decoders: Decoders, content: bytes) -> None:
    for own in decoders:
        decoded = decoded_or_refused(own, content)
        if isinstance(decoded, ImageError):
            assert decoded.status in (400, 413)
            assert 0 < len(str(decoded)) < 300
            assert "object at" not in str(decoded)
            continue
        if isinstance(decoded, torch.Tensor):
            # What was checked before decoding is what has been decoded.
            assert tuple(decoded.shape[:0:-1]) == open_image(needed_parts(content)).size
        assert own.transform(decoded).shape == (3, 96, 96)


def decoded_or_refused(own: TimmPreprocess | TorchvisionPreprocess, content: bytes) -> Any:
    try:
        return own.decode(content)
    except ImageError as error:
        return error


def check_changed(decoders: Decoders, content: bytes, changes: Sequence[Edit]) -> None:
    changed = bytearray(content)
    for change in changes:
        change(changed)
    check(decoders, bytes(changed))


CHANGED = {"content": st.sampled_from(FILES), "changes": st.lists(edits(), max_size=4)}


@BRIEF
@given(content=st.binary(max_size=2000))
def test_any_bytes_are_decoded_or_refused(decoders: Decoders, content: bytes) -> None:
    check(decoders, content)


@BRIEF
@given(**CHANGED)
def test_a_changed_file_is_decoded_or_refused(
    decoders: Decoders, content: bytes, changes: list[Edit]
) -> None:
    check_changed(decoders, content, changes)


@pytest.mark.soak
@LONG
@given(**CHANGED)
def test_a_changed_file_is_decoded_or_refused_at_length(
    decoders: Decoders, content: bytes, changes: list[Edit]
) -> None:
    check_changed(decoders, content, changes)


LARGE = 19_000_000
SLOW_CPU_S = 2.5
"""CPU time of any answer at most: ten times what study ``costly_bodies`` allows on an idle machine."""


@st.composite
def parts(draw: st.DrawFn) -> bytes:
    """A part that a format lets one repeat, of any kind and content, well formed or not quite."""
    data = draw(st.binary(max_size=64)) * draw(st.sampled_from([1, 1, 1, 40, 1000]))
    kind = draw(st.sampled_from(["bytes", "segment", "chunk", "RIFF chunk", "GIF block"]))
    if kind == "segment":
        marker = draw(st.integers(0xC0, 0xFE))
        return bytes([0xFF, marker]) + (len(data) + 2).to_bytes(2, "big") + data
    if kind == "chunk":
        name = draw(st.sampled_from([b"IDAT", b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"PLTE", b"fcTL", b"abCd"]))
        checksum = zlib.crc32(name + data) if draw(st.booleans()) else 0
        return len(data).to_bytes(4, "big") + name + data + checksum.to_bytes(4, "big")
    if kind == "RIFF chunk":
        name = draw(st.sampled_from([b"JUNK", b"EXIF", b"XMP ", b"ALPH", b"ANMF", b"VP8 ", b"VP8L"]))
        return name + len(data).to_bytes(4, "little") + data + bytes(len(data) % 2)
    if kind == "GIF block":
        label = draw(st.sampled_from([b"!\xfe", b"!\xff", b"!\xf9", b"!\x01", b",", b""]))
        return label + bytes([min(255, len(data))]) + data[:255] + draw(st.sampled_from([b"", b"\0"]))
    return data or b"\xff"


@pytest.mark.soak
@settings(max_examples=3000, deadline=None, database=None, print_blob=True)
@given(st.sampled_from(FILES), PLACE, parts(), st.booleans())
def test_a_refused_file_of_many_parts_costs_little(
    decoders: Decoders, original: bytes, place: float, part: bytes, whole: bool
) -> None:
    """Hypothesis looks for the slowest: whichever part is repeated at whichever place of a file."""
    at = int(place**2 * len(original))
    end = original[at:] if whole else b""
    content = original[:at] + part * ((LARGE - len(original)) // len(part)) + end
    for own in decoders:
        began = time.process_time()
        decoded = decoded_or_refused(own, content)
        spent_s = time.process_time() - began
        if isinstance(decoded, ImageError):
            target(spent_s, label=type(own).__name__)
            assert spent_s < SLOW_CPU_S


PHOTO = sorted(PHOTOS.glob("*.jpg"))[0].read_bytes()
PNG = next(content for content in FILES if content.startswith(b"\x89PNG"))
GIF = next(content for content in FILES if content.startswith(b"GIF"))
GIF_HEAD = 13 + 3 * 2 ** ((GIF[10] & 7) + 1)
"""Bytes of the header and the colour table."""


def pixels(content: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(content)) as image:
        return np.array(image.convert("RGB") if image.mode != "I;16" else image)


def segment(marker: int, data: bytes) -> bytes:
    return bytes([0xFF, marker]) + (len(data) + 2).to_bytes(2, "big") + data


def in_jpeg(parts: bytes) -> bytes:
    """The photo with ``parts`` right after its start."""
    return PHOTO[:2] + parts + PHOTO[2:]


def in_scan(parts: bytes) -> bytes:
    """The photo with ``parts`` in the middle of its last scan."""
    middle = (PHOTO.rindex(b"\xff\xda") + len(PHOTO)) // 2
    return PHOTO[:middle] + parts + PHOTO[middle:]


def in_png(parts: bytes) -> bytes:
    return PNG[:33] + parts + PNG[33:]


def in_gif(parts: bytes) -> bytes:
    return GIF[:GIF_HEAD] + parts + GIF[GIF_HEAD:]


def many(part: bytes) -> bytes:
    return part * (LARGE // len(part))


EXIF = segment(0xE1, b"Exif\0\0" + bytes(60_000))
PROFILE = segment(0xE2, b"ICC_PROFILE\0" + bytes(60_000))
RESOURCES = segment(0xED, b"Photoshop 3.0\0" + b"8BIM\x04\x04\0\0\0\0\0\0" * 5_000)
FILM = b"\0\0\0\x18ftypmp42" + b"\xff\xda\0\x02" * 1_000 + bytes(5_000_000)
COMMENT = b"!\xfe" + (b"\xff" + b"c" * 255) * 1_000 + b"\0"


@pytest.mark.parametrize(
    ("content", "original"),
    [
        (in_jpeg(EXIF * 60 + PROFILE * 20 + RESOURCES + segment(0xFE, b"a comment")) + FILM, PHOTO),
        (in_jpeg(b"\xff" * 100 + segment(0xFE, b"x") + b"junk\xff\0" + b"\xff" * 9), PHOTO),
        (in_gif(b"xxx" + COMMENT + b"x" + COMMENT), GIF),
        (in_png(chunk(b"iCCP", bytes(5_000)) * 100), PNG),
    ],
    ids=["JPEG of a camera", "JPEG with junk between segments", "GIF", "PNG"],
)
def test_what_pixels_do_not_depend_on_is_left_out(content: bytes, original: bytes) -> None:
    assert len(needed_parts(content)) < len(original) + 100
    assert (np.array(decode(content)) == np.array(decode(original))).all()


def test_the_pixels_are_the_same() -> None:
    with Image.open(io.BytesIO(PHOTO)) as image:
        adobe = saved(image.convert("CMYK"), "JPEG")
        restarting = saved(image.resize((1000, 1000)), "JPEG", restart_marker_blocks=1)
    photos = [path.read_bytes() for path in sorted(PHOTOS.glob("*.jpg"))[::40]]
    assert b"Adobe" in needed_parts(adobe)  # colours depend on it
    for content in (*photos, *FILES, adobe, restarting):
        assert (pixels(needed_parts(content)) == pixels(content)).all()


START = PHOTO[:2] + segment(0xE0, b"JFIF\0\x01\x01\0\0\x01\0\x01\0\0")
BOMB = zlib.compress(bytes(1_000_000))
HOSTILE: dict[str, Callable[[], bytes]] = {
    "empty APP1 segments": lambda: in_jpeg(many(segment(0xE1, b""))),
    "empty comments": lambda: in_jpeg(many(segment(0xFE, b""))),
    "empty tables": lambda: in_jpeg(many(segment(0xDB, b""))),
    "long tables": lambda: in_jpeg(many(segment(0xDB, bytes(65_000)))),
    "frames of 21,000 colours": lambda: in_jpeg(many(segment(0xC0, bytes(65_000)))),
    "Photoshop's resources": lambda: in_jpeg(many(RESOURCES)),
    "lone markers": lambda: in_jpeg(many(b"\xff\x01")),
    "extensions of JPG": lambda: in_jpeg(many(b"\xff\xf2")),
    "JPG's marker": lambda: in_jpeg(many(b"\xff\xc8")),
    "junk": lambda: in_jpeg(segment(0xFE, b"") + many(b"x")),
    "fill bytes": lambda: in_jpeg(many(b"\xff")),
    "escaped bytes": lambda: in_jpeg(many(b"\xff\0")),
    "fill bytes within a scan": lambda: in_scan(many(b"\xff")),
    "fill bytes within a scan without an end": lambda: in_scan(many(b"\xff"))[:-100_000],
    "APP1 segments within a scan": lambda: in_scan(many(segment(0xE1, b"x"))),
    "APP1 segments within a scan without an end": lambda: in_scan(many(segment(0xE1, b"x")))[:-100_000],
    "empty tables within a scan": lambda: in_scan(many(segment(0xC4, b""))),
    "restart markers": lambda: in_scan(many(b"\xff\xd0"))[:-100_000],
    "scans of many pixels": lambda: many_scans(60, side=4000),
    "fill bytes without a picture": lambda: START + many(b"\xff"),
    "junk without a picture": lambda: START + many(b"x"),
    "no picture": lambda: START,
    "half a marker": lambda: START + b"\xff\xe1\xff",
    "half a segment": lambda: START + b"\xff\xe1",
    "text chunks": lambda: in_png(many(chunk(b"tEXt", b""))),
    "compressed texts": lambda: in_png(many(chunk(b"zTXt", b"k\0\0" + BOMB))),
    "compressed profiles": lambda: in_png(many(chunk(b"iCCP", b"k\0\0" + BOMB))),
    "empty data chunks": lambda: in_png(many(chunk(b"IDAT", b""))),
    "tiny comment blocks": lambda: in_gif(b"!\xfe" + many(b"\x01c") + b"\0"),
    "full comment blocks": lambda: in_gif(b"!\xfe" + many(b"\xff" + b"c" * 255) + b"\0"),
    "empty extensions": lambda: in_gif(many(b"!\xfe\0")),
    "bytes of no block": lambda: in_gif(many(b"x")),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_file_of_many_parts_costs_little(decoders: Decoders, name: str) -> None:
    content = HOSTILE[name]()
    for own in decoders:
        began = time.process_time()
        decoded = decoded_or_refused(own, content)
        assert time.process_time() - began < SLOW_CPU_S
        assert not isinstance(decoded, ImageError) or decoded.status in (400, 413)


OUT_OF_MEMORY = """
import resource, sys
from pathlib import Path
from litmeter.classifier.model.image import decode
contents = [Path(path).read_bytes() for path in sys.argv[1:]]
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**25, resource.RLIM_INFINITY))
for content in contents:
    try:
        decode(content)
    except Exception as error:
        print(type(error).__name__)
"""


def test_without_memory_a_sound_image_is_not_called_unreadable(tmp_path: Path) -> None:
    """But a WebP may be: Pillow says the same of its damaged ones."""
    paths = [tmp_path / form for form in ("JPEG", "PNG", "GIF")]
    for path in paths:
        Image.new("RGB", (8000, 6000)).save(path, path.name)
    done = subprocess.run([sys.executable, "-c", OUT_OF_MEMORY, *paths], capture_output=True, text=True)
    assert done.stdout.split() == ["MemoryError"] * len(paths), done.stderr
