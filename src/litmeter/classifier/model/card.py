"""The model card: a JSON file beside the weights with all that is needed to serve them."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

from pydantic import Field

from litmeter.classifier.model.own import files_of_factory
from litmeter.classifier.model.settings import ModelKind
from litmeter.errors import ModelError
from litmeter.system.files import Record, read_json, reading

WEIGHTS_NAME = "model.safetensors"
CARD_NAME = "model.json"
INTERPOLATIONS = ("bilinear", "bicubic")
"""The interpolations of timm that torch also computes on bytes; other models need timm's preprocessing."""


class ModelCard(Record):
    """The content of the card."""

    architecture: str = Field(description="name in timm, factory, or name of the ONNX file")
    kind: ModelKind = Field("name", description="the key of `model:` that named it")
    code_sha256: str | None = Field(None, description="of the factory's files; null for other kinds")
    classes: list[str] = Field(min_length=2, description="by output index")
    image_size: int = Field(description="side of the square input, pixels")
    mean: tuple[float, float, float] = Field(description="per channel, of values in 0..1")
    std: tuple[float, float, float] = Field(description="per channel, of values in 0..1")
    interpolation: str = Field(description="how an image is resized")
    crop_pct: float = Field(description="share of the resized image that the centre crop keeps")
    test_accuracy: float = Field(description="on the test split, in full precision")
    test_images: int = Field(description="size of the test split")
    weights_sha256: str = Field(description="of the weights file that belongs to this card")

    @property
    def resized_side(self) -> int:
        """The shorter side of a resized image, in pixels, before its centre is cropped."""
        return math.floor(self.image_size / self.crop_pct)


def sha256(*paths: Path) -> str:
    """Hex digest of the files' contents, one after another."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    return digest.hexdigest()


def read_card(folder: Path) -> ModelCard:
    """Read the card in ``folder``, and check that the weights beside it have its hash; raise ModelError."""
    with reading(folder / CARD_NAME, "dvc repro export", ModelError):
        card = ModelCard.model_validate(read_json(folder / CARD_NAME))
        digest = sha256(folder / WEIGHTS_NAME)
    if digest != card.weights_sha256:
        raise ModelError(f"{folder / WEIGHTS_NAME} is not the file that {CARD_NAME} was written for")
    return card


def check_code(card: ModelCard) -> None:
    """Raise ModelError where the code of a factory has changed since the export."""
    if card.kind == "factory" and sha256(*files_of_factory(card.architecture)) != card.code_sha256:
        raise ModelError(f"the code of {card.architecture} has changed; `dvc repro export` exports it again")
