"""timm models: built by name, or loaded from an exported folder, and their input configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from litmeter.errors import ModelError
from litmeter.model.card import WEIGHTS_NAME, ModelCard
from litmeter.system.imports import lean_import

timm = lean_import("timm")
lean_import("timm.data")


def build_model(name: str, num_classes: int, image_size: int, hub: bool = False) -> torch.nn.Module:
    """A timm model for square images of ``image_size`` pixels; ``hub`` downloads timm's weights.

    Raise ModelError where timm cannot build it, or cannot reach the weights.
    """
    try:
        fixed = timm.get_pretrained_cfg(name).fixed_input_size
        size = {"img_size": image_size} if fixed else {}
        model: torch.nn.Module = timm.create_model(name, pretrained=hub, num_classes=num_classes, **size)
        return model
    except Exception as error:  # timm and the hub raise errors of many types
        source = " with the hub's weights" if hub else ""
        line = " ".join(str(error).split())[:300]
        raise ModelError(f"timm cannot build {name}{source} at {image_size} px: {line}") from error


def model_of(card: ModelCard) -> torch.nn.Module:
    """The card's architecture, without its weights, in evaluation mode."""
    return build_model(card.architecture, len(card.classes), card.image_size).eval()


def input_config(model: torch.nn.Module) -> dict[str, Any]:
    """timm's preprocessing parameters of ``model``: mean, std, interpolation, crop_pct."""
    config = timm.data.resolve_data_config({}, model=model)
    return {key: config[key] for key in ("mean", "std", "interpolation", "crop_pct")}


def load_model(folder: Path, card: ModelCard, device: torch.device, dtype: torch.dtype) -> torch.nn.Module:
    """The exported model with its weights, ready for float tensors (N, 3, size, size) of ``dtype``."""
    # Full precision means IEEE float32: without this, convolutions on a GPU run in TF32.
    torch.backends.cudnn.allow_tf32 = False
    model = model_of(card)
    model.load_state_dict(load_file(folder / WEIGHTS_NAME))
    return model.to(device, dtype)


class PixelModel(torch.nn.Module):
    """Normalisation and model in one module, for uint8 pixels (N, 3, size, size), channels last.

    The weights are channels last as well, so that convolutions need no copy of the batch.
    """

    def __init__(
        self, model: torch.nn.Module, card: ModelCard, device: torch.device, dtype: torch.dtype
    ) -> None:
        super().__init__()
        mean, std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (card.mean, card.std))
        self.model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.dtype = dtype
        self.scale, self.offset = 1 / (255 * std), -mean / std

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Logits (N, classes)."""
        logits: torch.Tensor = self.model((pixels.float() * self.scale + self.offset).to(self.dtype))
        return logits
