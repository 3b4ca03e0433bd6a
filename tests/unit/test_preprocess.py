"""torchvision's preprocessing on bytes, against timm's own transform on PIL images."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import simplejpeg
import torch
from PIL import Image
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import center_crop, resize

from litmeter.classifier.model.card import read_card
from litmeter.classifier.model.image import ImageError
from litmeter.classifier.model.model import PixelModel
from litmeter.classifier.model.preprocess import ScaledPreprocess, TimmPreprocess, TorchvisionPreprocess
from litmeter.errors import ModelError
from litmeter.paths import ModelFolders
from tests.support.project import PHOTOS

LEVEL = 1 / 255 / 0.2
"""One step of a byte after division by the smallest standard deviation that timm's models use."""


@pytest.fixture(scope="module")
def both(exported: ModelFolders) -> Both:
    card = read_card(exported.exported)
    normalise = PixelModel(torch.nn.Identity(), card, torch.device("cpu"), torch.float32)
    return Both(TimmPreprocess(card), TorchvisionPreprocess(card), normalise)


class Both(NamedTuple):
    """Two ways to pixels, and what the model does to those of the second."""

    timm: TimmPreprocess
    torchvision: TorchvisionPreprocess
    normalise: PixelModel


def apart(both: Both, content: bytes) -> torch.Tensor:
    expected = both.timm.transform(both.timm.decode(content))
    pixels = both.torchvision.transform(both.torchvision.decode(content))
    assert pixels.dtype == torch.uint8
    found = both.normalise(pixels[None])[0]
    assert expected.shape == found.shape
    assert found.dtype == torch.float32
    return (expected - found).abs()


def test_pixels_of_photos_differ_by_a_step_or_two(both: Both, photos: list[Path]) -> None:
    for path in photos:
        difference = apart(both, path.read_bytes())
        assert difference.max() <= 2.5 * LEVEL
        assert difference.mean() <= 0.25 * LEVEL


def jpeg(image: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **options)
    return buffer.getvalue()


def as_format(image: Image.Image, name: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, name)
    return buffer.getvalue()


def rotated_by_exif(image: Image.Image) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return jpeg(image, exif=exif)


VARIANTS: dict[str, Callable[[Image.Image], bytes]] = {
    "grey": lambda image: jpeg(image.convert("L")),
    "CMYK": lambda image: jpeg(image.convert("CMYK")),
    "progressive": lambda image: jpeg(image, progressive=True),
    "no chroma subsampling": lambda image: jpeg(image, subsampling=0),
    "EXIF rotation": rotated_by_exif,
    "PNG": lambda image: as_format(image, "PNG"),
    "PNG with alpha": lambda image: as_format(image.convert("RGBA"), "PNG"),
    "palette": lambda image: as_format(image.convert("P"), "PNG"),
    "WebP": lambda image: as_format(image, "WEBP"),
    "one pixel": lambda image: jpeg(image.resize((1, 1))),
    "very wide": lambda image: jpeg(image.resize((900, 30))),
    "smaller than the input": lambda image: jpeg(image.resize((40, 50))),
    "large": lambda image: jpeg(image.resize((1200, 900))),
}


def by_pillow(content: bytes) -> torch.Tensor:
    with Image.open(io.BytesIO(content)) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


def test_photos_are_decoded_to_pillows_pixels(both: Both) -> None:
    for path in sorted(PHOTOS.glob("*.jpg"))[::10]:
        content = path.read_bytes()
        assert torch.equal(both.torchvision.decode(content), by_pillow(content)), path


def test_a_flawed_jpeg_is_decoded_as_by_pillow(both: Both, photos: list[Path]) -> None:
    """libjpeg warns of zeros before its end mark."""
    content = photos[0].read_bytes()[:-2] + bytes(7) + b"\xff\xd9"
    with pytest.raises(ValueError, match="extraneous"):
        simplejpeg.decode_jpeg(content)
    assert torch.equal(both.torchvision.decode(content), by_pillow(content))


@pytest.mark.parametrize("variant", list(VARIANTS))
def test_every_kind_of_image_is_decoded_as_by_pillow_and_resized_as_by_torchvision(
    both: Both, photos: list[Path], variant: str
) -> None:
    with Image.open(photos[0]) as image:
        content = VARIANTS[variant](image.convert("RGB"))
    difference = apart(both, content)
    assert difference.max() <= 3 * LEVEL
    assert difference.mean() <= 0.3 * LEVEL
    own = both.torchvision
    decoded = own.decode(content)
    assert torch.equal(decoded, by_pillow(content))
    resized = resize(decoded, [own.resized], InterpolationMode(own.interpolation), antialias=True)
    assert torch.equal(own.transform(decoded), center_crop(resized, [own.image_size, own.image_size]))


def test_a_resize_that_torch_does_not_know_is_refused(exported: ModelFolders) -> None:
    card = read_card(exported.exported).model_copy(update={"interpolation": "lanczos"})
    with pytest.raises(ModelError, match="this model needs lanczos; set 'timm'"):
        TorchvisionPreprocess(card)


def test_broken_images_are_refused_in_the_same_words(both: Both, photos: list[Path]) -> None:
    whole = photos[0].read_bytes()
    for content in (b"", b"no image", whole[:300], whole[: len(whole) // 2]):
        reasons = []
        for own in (both.timm, both.torchvision):
            with pytest.raises(ImageError) as caught:
                own.decode(content)
            reasons.append((caught.value.status, str(caught.value)))
        assert reasons[0] == reasons[1]


@pytest.mark.parametrize(("side", "decoded"), [(191, 191), (230, 115), (700, 175), (1200, 150)])
def test_large_jpegs_are_decoded_at_the_smallest_scale_that_suffices(
    exported: ModelFolders, photos: list[Path], side: int, decoded: int
) -> None:
    """The tiny model resizes the shorter side of an image to 101 pixels."""
    card = read_card(exported.exported)
    scaled, whole = ScaledPreprocess(card), TorchvisionPreprocess(card)
    with Image.open(photos[0]) as photo:
        content = jpeg(photo.resize((side + 40, side)), quality=95)
    pixels = scaled.decode(content)
    assert scaled.resized == 101
    assert min(pixels.shape[1:]) == decoded
    difference = (scaled.transform(pixels).int() - whole.transform(whole.decode(content)).int()).abs()
    assert difference.float().mean() < 4
    if decoded == side:
        assert difference.max() == 0


def test_what_is_no_jpeg_is_not_scaled(exported: ModelFolders, photos: list[Path]) -> None:
    scaled = ScaledPreprocess(read_card(exported.exported))
    with Image.open(photos[0]) as photo:
        content = as_format(photo.resize((600, 500)), "PNG")
    assert scaled.decode(content).shape == (3, 500, 600)
    with pytest.raises(ImageError):
        scaled.decode(jpeg(Image.new("RGB", (900, 900)))[:-400])
