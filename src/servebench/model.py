"""timm models, and how they want their images."""

from __future__ import annotations

from typing import Any

import timm
import torch
from timm.data import create_transform, resolve_data_config

from servebench.card import ModelCard
from servebench.errors import ModelError


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


def model_of(card: ModelCard) -> torch.nn.Module:
    """The card's architecture, without its weights, in evaluation mode."""
    return build_model(card.architecture, len(card.classes), card.image_size).eval()


def transform_of(card: ModelCard) -> Any:
    """timm's own evaluation transform: PIL image -> float tensor (3, image_size, image_size)."""
    return create_transform(
        input_size=(3, card.image_size, card.image_size),
        interpolation=card.interpolation,
        mean=card.mean,
        std=card.std,
        crop_pct=card.crop_pct,
        is_training=False,
    )


def input_config(model: torch.nn.Module) -> dict[str, Any]:
    """How ``model`` wants its images: mean, std, interpolation, crop_pct."""
    config = resolve_data_config({}, model=model)
    return {key: config[key] for key in ("mean", "std", "interpolation", "crop_pct")}
