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

from litmeter.classifier.model.card import ModelCard, read_card
from litmeter.classifier.model.image import ImageError
from litmeter.classifier.model.model import PixelModel
from litmeter.classifier.model.preprocess import ScaledPreprocess, TimmPreprocess, TorchvisionPreprocess
from litmeter.errors import ModelError
from litmeter.paths import ModelFolders
from tests.support.bad_images import saved
from tests.support.project import PHOTOS

LEVEL = 1 / 255 / 0.2
"""One step of a byte after division by the smallest standard deviation that timm's models use."""


class Both(NamedTuple):
    """Two ways to pixels, and what the model does to those of the second."""

    timm: TimmPreprocess
    torchvision: TorchvisionPreprocess
    normalise: PixelModel


@pytest.fixture(scope="module")
def card(exported: ModelFolders) -> ModelCard:
    return read_card(exported.exported)


@pytest.fixture(scope="module")
def both(card: ModelCard) -> Both:
    normalise = PixelModel(torch.nn.Identity(), card, torch.device("cpu"), torch.float32)
    return Both(TimmPreprocess(card), TorchvisionPreprocess(card), normalise)


@pytest.fixture(scope="module")
def photo(photos: list[Path]) -> Image.Image:
    with Image.open(photos[0]) as image:
        return image.convert("RGB")


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


def rotated_by_exif(image: Image.Image) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return saved(image, "JPEG", exif=exif)


VARIANTS: dict[str, Callable[[Image.Image], bytes]] = {
    "grey": lambda image: saved(image.convert("L"), "JPEG"),
    "CMYK": lambda image: saved(image.convert("CMYK"), "JPEG"),
    "progressive": lambda image: saved(image, "JPEG", progressive=True),
    "no chroma subsampling": lambda image: saved(image, "JPEG", subsampling=0),
    "EXIF rotation": rotated_by_exif,
    "PNG": lambda image: saved(image, "PNG"),
    "PNG with alpha": lambda image: saved(image.convert("RGBA"), "PNG"),
    "palette": lambda image: saved(image.convert("P"), "PNG"),
    "WebP": lambda image: saved(image, "WEBP"),
    "one pixel": lambda image: saved(image.resize((1, 1)), "JPEG"),
    "very wide": lambda image: saved(image.resize((900, 30)), "JPEG"),
    "smaller than the input": lambda image: saved(image.resize((40, 50)), "JPEG"),
    "large": lambda image: saved(image.resize((1200, 900)), "JPEG"),
}


def by_pillow(content: bytes) -> torch.Tensor:
    with Image.open(io.BytesIO(content)) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


def test_photos_are_decoded_to_pillows_pixels(both: Both) -> None:
    contents = [path.read_bytes() for path in sorted(PHOTOS.glob("*.jpg"))[::10]]
    flawed = contents[0][:-2] + bytes(7) + b"\xff\xd9"  # libjpeg warns of zeros before the end mark
    with pytest.raises(ValueError, match="extraneous"):
        simplejpeg.decode_jpeg(flawed)
    for content in (*contents, flawed):
        assert torch.equal(both.torchvision.decode(content), by_pillow(content))


@pytest.mark.parametrize("variant", list(VARIANTS))
def test_every_kind_of_image_is_decoded_as_by_pillow_and_resized_as_by_torchvision(
    both: Both, photo: Image.Image, variant: str
) -> None:
    content = VARIANTS[variant](photo)
    difference = apart(both, content)
    assert difference.max() <= 3 * LEVEL
    assert difference.mean() <= 0.3 * LEVEL
    own = both.torchvision
    decoded = own.decode(content)
    assert torch.equal(decoded, by_pillow(content))
    resized = resize(decoded, [own.resized], InterpolationMode(own.interpolation), antialias=True)
    assert torch.equal(own.transform(decoded), center_crop(resized, [own.image_size, own.image_size]))


def test_a_resize_that_torch_does_not_know_is_refused(card: ModelCard) -> None:
    with pytest.raises(ModelError, match="this model needs lanczos; set 'timm'"):
        TorchvisionPreprocess(card.model_copy(update={"interpolation": "lanczos"}))


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
    both: Both, card: ModelCard, photo: Image.Image, side: int, decoded: int
) -> None:
    scaled, whole = ScaledPreprocess(card), both.torchvision
    assert scaled.resized == 101  # the tiny model's shorter side
    content = saved(photo.resize((side + 40, side)), "JPEG", quality=95)
    pixels = scaled.decode(content)
    assert min(pixels.shape[1:]) == decoded
    difference = (scaled.transform(pixels).int() - whole.transform(whole.decode(content)).int()).abs()
    assert difference.float().mean() < 4
    if decoded == side:
        assert difference.max() == 0


def test_what_is_no_jpeg_is_not_scaled(card: ModelCard, photo: Image.Image) -> None:
    scaled = ScaledPreprocess(card)
    assert scaled.decode(saved(photo.resize((600, 500)), "PNG")).shape == (3, 500, 600)
    with pytest.raises(ImageError):
        scaled.decode(saved(Image.new("RGB", (900, 900)), "JPEG")[:-400])
