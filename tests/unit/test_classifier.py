"""Image bytes in, probabilities out; and every way in which bytes are no image."""

from __future__ import annotations

import base64
import io
import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from servebench.errors import ModelError
from servebench.inference.card import CARD_NAME, WEIGHTS_NAME, read_card
from servebench.inference.device import dtype_name
from servebench.inference.image import ImageError, decode
from servebench.inference.model import build_model
from servebench.inference.predictor import Predictor
from servebench.params import ServeSettings
from servebench.paths import ModelFolders
from servebench.serving.api import from_base64
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
def test_bytes_that_are_no_image_are_refused_without_a_trace_of_the_buffer(content: bytes) -> None:
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
def test_a_common_kind_that_is_not_taken_is_named(content: bytes, name: str) -> None:
    with pytest.raises(
        ImageError, match=f"^image: {name} is not taken; JPEG, PNG, WebP and GIF are$"
    ) as caught:
        decode(content)
    assert caught.value.status == 400


def test_an_empty_image_and_a_data_url_are_told_from_noise(photos: list[Path]) -> None:
    with pytest.raises(ImageError, match=r"^image: empty$"):
        decode(from_base64(""))
    text = base64.b64encode(photos[0].read_bytes()).decode()
    assert from_base64(text) == photos[0].read_bytes()
    with pytest.raises(ImageError, match="send what follows 'base64,' alone") as caught:
        from_base64(f"data:image/jpeg;base64,{text}")
    assert caught.value.status == 400


@pytest.mark.parametrize("side", [8_000, 20_000])
def test_a_decompression_bomb_is_refused_before_it_is_decoded(side: int) -> None:
    bomb = encoded(Image.new("1", (side, side)))
    assert len(bomb) < 100_000
    with pytest.raises(ImageError, match="pixels") as caught:
        decode(bomb)
    assert caught.value.status == 413


def test_bytes_stay_channels_last_and_give_the_same_answers(
    exported: ModelFolders, photos: list[Path]
) -> None:
    classifier = Predictor(exported, "cpu", ServeSettings(preprocess="torchvision"))
    batch = classifier.batch([classifier.preprocess(path.read_bytes()) for path in photos[:3]])
    assert (batch.shape[0], batch.dtype) == (3, torch.uint8)
    assert batch.is_contiguous(memory_format=torch.channels_last)
    first = classifier.forward(batch)
    again = classifier.forward(batch.contiguous())
    assert torch.allclose(first, again, atol=1e-5)
    assert not torch.equal(first[0], first[1])


def test_probabilities_do_not_depend_on_the_batch(exported: ModelFolders, photos: list[Path]) -> None:
    classifier = Predictor(exported, "cpu", ServeSettings())
    tensors = [classifier.preprocess(path.read_bytes()) for path in photos]
    together = classifier.predict(tensors)
    assert together.shape == (len(photos), 3)
    assert torch.allclose(together.sum(dim=1), torch.ones(len(photos)))
    for row, tensor in zip(together, tensors, strict=True):
        assert torch.allclose(classifier.predict([tensor])[0], row, atol=1e-5)
    assert len({tuple(row.tolist()) for row in together}) == len(photos)


def test_half_precision_is_what_the_hardware_computes_fastest(
    exported: ModelFolders, photos: list[Path]
) -> None:
    assert dtype_name("half", "cpu") == "bfloat16"
    assert dtype_name("half", "cuda:0") == "float16"
    assert dtype_name("full", "cuda") == "float32"
    half, full = (Predictor(exported, "cpu", ServeSettings(precision=p)) for p in ("half", "full"))
    assert next(half.run.parameters()).dtype == torch.bfloat16
    tensor = full.preprocess(photos[0].read_bytes())
    assert half.predict([tensor]).dtype == torch.float32
    assert torch.allclose(half.predict([tensor]), full.predict([tensor]), atol=0.1)


def copied(exported: ModelFolders, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported.exported, tmp_path / "copy"))


def test_weights_that_are_not_the_cards_are_refused(exported: ModelFolders, tmp_path: Path) -> None:
    folder = copied(exported, tmp_path)
    content = bytearray((folder / WEIGHTS_NAME).read_bytes())
    content[-1] ^= 1
    (folder / WEIGHTS_NAME).write_bytes(content)
    with pytest.raises(ModelError, match="is not the file that"):
        read_card(folder)


@pytest.mark.parametrize("change", [{"classes": ["one"]}, {"mean": [0.5]}, {"surprise": 1}])
def test_a_malformed_card_is_refused(
    exported: ModelFolders, tmp_path: Path, change: dict[str, object]
) -> None:
    folder = copied(exported, tmp_path)
    card = json.loads((folder / CARD_NAME).read_text()) | change
    (folder / CARD_NAME).write_text(json.dumps(card))
    with pytest.raises(ModelError, match=r"model\.json"):
        read_card(folder)


def test_a_missing_model_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="dvc repro export"):
        read_card(tmp_path)


def test_a_model_that_timm_cannot_build_is_one_line() -> None:
    with pytest.raises(ModelError, match="timm cannot build no_such_model at 96 px") as caught:
        build_model("no_such_model", 2, 96)
    assert "\n" not in str(caught.value)
