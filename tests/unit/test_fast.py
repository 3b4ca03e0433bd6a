"""The fast way from an image file to a tensor, against timm's own transform on PIL images."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from PIL import Image

from servebench.inference.card import read_card
from servebench.inference.image import ImageError
from servebench.inference.predictor import Predictor, TimmPreprocess
from servebench.inference.preprocess import Normalised, TorchvisionPreprocess
from servebench.params import ServeSettings
from servebench.paths import ModelFolders

LEVEL = 1 / 255 / 0.2
"""One step of a byte after division by the smallest standard deviation that timm's models use."""


@pytest.fixture(scope="module")
def both(exported: ModelFolders) -> Both:
    card = read_card(exported.exported)
    normalise = Normalised(torch.nn.Identity(), card, torch.device("cpu"), torch.float32)
    return Both(TimmPreprocess(card), TorchvisionPreprocess(card), normalise)


class Both(NamedTuple):
    """Two ways to pixels, and what the model does to those of the second."""

    timm: TimmPreprocess
    fast: TorchvisionPreprocess
    normalise: Normalised


def apart(both: Both, content: bytes) -> torch.Tensor:
    slow = both.timm.transform(both.timm.decode(content))
    pixels = both.fast.transform(both.fast.decode(content))
    assert pixels.dtype == torch.uint8
    fast = both.normalise(pixels[None])[0]
    assert slow.shape == fast.shape
    assert fast.dtype == torch.float32
    return (slow - fast).abs()


def test_on_photos_a_value_is_off_by_a_step_or_two(both: Both, photos: list[Path]) -> None:
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
    "large": lambda image: jpeg(image.resize((2400, 1800))),
}


@pytest.mark.parametrize("variant", list(VARIANTS))
def test_every_kind_of_image_comes_out_alike(both: Both, photos: list[Path], variant: str) -> None:
    with Image.open(photos[0]) as image:
        content = VARIANTS[variant](image.convert("RGB"))
    difference = apart(both, content)
    assert difference.max() <= 3 * LEVEL
    assert difference.mean() <= 0.3 * LEVEL


def test_what_is_no_whole_image_is_refused_with_the_same_words(both: Both, photos: list[Path]) -> None:
    whole = photos[0].read_bytes()
    for content in (b"", b"no image", whole[:300], whole[: len(whole) // 2]):
        reasons = []
        for own in (both.timm, both.fast):
            with pytest.raises(ImageError) as caught:
                own.decode(content)
            reasons.append((caught.value.status, str(caught.value)))
        assert reasons[0] == reasons[1]


def test_a_classifier_takes_the_way_that_its_settings_name(
    exported: ModelFolders, photos: list[Path]
) -> None:
    content = photos[0].read_bytes()
    timm = Predictor(exported, "cpu", ServeSettings(preprocess="timm"))
    fast = Predictor(exported, "cpu", ServeSettings(preprocess="torchvision"))
    assert isinstance(timm.decode(content), Image.Image)
    assert isinstance(fast.decode(content), torch.Tensor)
    images = [[own.preprocess(content)] for own in (timm, fast)]
    assert torch.allclose(timm.predict(images[0]), fast.predict(images[1]), atol=0.02)


def test_threads_are_those_of_the_settings(exported: ModelFolders) -> None:
    before = torch.get_num_threads()
    try:
        Predictor(exported, "cpu", ServeSettings(threads_per_worker=1))
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
