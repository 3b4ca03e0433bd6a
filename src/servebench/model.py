"""A timm model, and the card that says all a server must know about it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated

import timm
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from timm.data import create_transform, resolve_data_config
from torchvision.transforms import Compose

from servebench.errors import ModelError
from servebench.results import read_json

WEIGHTS_NAME = "model.safetensors"
CARD_NAME = "model.json"


class ModelCard(BaseModel):
    """What a model takes and answers. With the weights beside it, all that a server needs."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    architecture: str = Field(description="name in timm")
    classes: Annotated[list[str], Field(min_length=2)] = Field(description="by output index")
    image_size: int = Field(description="side of the square input, pixels")
    mean: tuple[float, float, float] = Field(description="per channel, of values in 0..1")
    std: tuple[float, float, float] = Field(description="per channel, of values in 0..1")
    interpolation: str = Field(description="how an image is resized")
    crop_pct: float = Field(description="share of the resized image that the centre crop keeps")
    test_accuracy: float = Field(description="on the test split, in full precision")
    test_images: int = Field(description="size of the test split")
    weights_sha256: str = Field(description="of the weights file that belongs to this card")

    def build(self) -> torch.nn.Module:
        """The architecture, without its weights, in evaluation mode."""
        return build_model(self.architecture, len(self.classes), self.image_size).eval()

    def transform(self) -> Compose:
        """timm's own evaluation transform: PIL image -> float tensor (3, image_size, image_size)."""
        return create_transform(
            input_size=(3, self.image_size, self.image_size),
            interpolation=self.interpolation,
            mean=self.mean,
            std=self.std,
            crop_pct=self.crop_pct,
            is_training=False,
        )


def build_model(name: str, num_classes: int, image_size: int, hub: bool = False) -> torch.nn.Module:
    """A timm model for square images of ``image_size`` pixels; ``hub`` downloads timm's weights.

    Raises:
        ModelError: timm cannot build it, or cannot reach the weights.
    """
    try:
        fixed = timm.get_pretrained_cfg(name).fixed_input_size
        size = {"img_size": image_size} if fixed else {}
        model: torch.nn.Module = timm.create_model(name, pretrained=hub, num_classes=num_classes, **size)
        return model
    except Exception as error:  # timm and the hub raise whatever their layers do
        source = " with the hub's weights" if hub else ""
        line = " ".join(str(error).split())[:300]
        raise ModelError(f"timm cannot build {name}{source} at {image_size} px: {line}") from error


def input_config(model: torch.nn.Module) -> dict[str, object]:
    """How ``model`` wants its images: mean, std, interpolation, crop_pct."""
    config = resolve_data_config({}, model=model)
    return {key: config[key] for key in ("mean", "std", "interpolation", "crop_pct")}


def sha256(path: Path) -> str:
    """Hex digest of the file at ``path``."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def read_card(folder: Path) -> ModelCard:
    """The card in ``folder``, after a check that the weights beside it are the card's own.

    Raises:
        ModelError: a file is missing or malformed, or the weights are others.
    """
    try:
        card = ModelCard.model_validate(read_json(folder / CARD_NAME))
        digest = sha256(folder / WEIGHTS_NAME)
    except OSError as error:
        raise ModelError(f"{error.filename}: {error.strerror}; `dvc repro export` makes it") from error
    except (ValueError, ValidationError) as error:
        raise ModelError(f"{folder / CARD_NAME}: {' '.join(str(error).split())}") from error
    if digest != card.weights_sha256:
        raise ModelError(f"{folder / WEIGHTS_NAME} is not the file that {CARD_NAME} was written for")
    return card
