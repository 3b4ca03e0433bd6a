"""The decoders on arbitrary bytes: an image of the right shape, or a refusal, and nothing else."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings, target
from hypothesis import strategies as st
from PIL import Image

from litmeter.classifier.model.card import read_card
from litmeter.classifier.model.image import ImageError, needed_parts, open_image
from litmeter.classifier.model.preprocess import TimmPreprocess, TorchvisionPreprocess
from litmeter.paths import ModelFolders
from tests.support.bad_images import saved
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
SLOW_CPU_S = 0.5
"""CPU time of any answer at most: twice what study ``costly_bodies`` allows on an idle machine."""


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
