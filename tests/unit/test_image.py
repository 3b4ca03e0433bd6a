"""From bytes to an RGB image, or the reason why there is none."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import pytest
from PIL import Image

from litmeter.inference.image import ImageError, decode
from litmeter.serving.classifier import decode_base64
from tests.support.bad_images import isobmff


def encoded(image: Image.Image, form: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form)
    return buffer.getvalue()


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "I;16", "1"])
def test_every_colour_mode_becomes_rgb(mode: str) -> None:
    image = Image.new(mode, (20, 10))
    decoded = decode(encoded(image, "JPEG" if mode == "CMYK" else "PNG"))
    assert (decoded.mode, decoded.size) == ("RGB", (20, 10))


@pytest.mark.parametrize("cut", [0, 1, 100, 2000, -2000])
def test_a_truncated_photo_is_refused(photos: list[Path], cut: int) -> None:
    with pytest.raises(ImageError) as caught:
        decode(photos[0].read_bytes()[:cut])
    assert caught.value.status == 400


@pytest.mark.parametrize("content", [b"GIF89a", b"\xff\xd8\xff", b"<svg/>", bytes(10_000)])
def test_bytes_of_no_image_are_refused_in_plain_words(content: bytes) -> None:
    with pytest.raises(ImageError, match="not a readable image") as caught:
        decode(content)
    assert caught.value.status == 400
    assert "0x" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (isobmff(b"heic"), "HEIC"),
        (isobmff(b"heix"), "HEIC"),
        (isobmff(b"hevc"), "HEIC"),
        (isobmff(b"mif1"), "HEIF"),
        (isobmff(b"avif"), "AVIF"),
        (isobmff(b"avis"), "AVIF"),
        (encoded(Image.new("RGB", (4, 4)), "BMP"), "BMP"),
        (encoded(Image.new("RGB", (4, 4)), "TIFF"), "TIFF"),
        (b"MM\0*\0\0\0\x08", "TIFF"),
        (encoded(Image.new("RGB", (4, 4)), "PDF"), "PDF"),
    ],
)
def test_a_common_format_that_is_not_taken_is_named(content: bytes, name: str) -> None:
    with pytest.raises(
        ImageError, match=f"^image: {name} is not taken; JPEG, PNG, WebP and GIF are$"
    ) as caught:
        decode(content)
    assert caught.value.status == 400


def test_empty_images_and_data_urls_get_their_own_reasons(photos: list[Path]) -> None:
    with pytest.raises(ImageError, match=r"^image: empty$"):
        decode(decode_base64(""))
    text = base64.b64encode(photos[0].read_bytes()).decode()
    assert decode_base64(text) == photos[0].read_bytes()
    with pytest.raises(ImageError, match="send what follows 'base64,' alone") as caught:
        decode_base64(f"data:image/jpeg;base64,{text}")
    assert caught.value.status == 400


@pytest.mark.parametrize("side", [8_000, 20_000])
def test_a_decompression_bomb_is_refused_before_it_is_decoded(side: int) -> None:
    bomb = encoded(Image.new("1", (side, side)))
    assert len(bomb) < 100_000
    with pytest.raises(ImageError, match="pixels") as caught:
        decode(bomb)
    assert caught.value.status == 413
