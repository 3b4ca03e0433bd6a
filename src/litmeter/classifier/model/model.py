"""Build models (timm's, a user's factory, an ONNX file's), check them, and load exported ones."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from traceback import extract_tb
from typing import Any

import torch
from safetensors.torch import load_file

from litmeter.classifier.model.card import WEIGHTS_NAME, ModelCard, check_code
from litmeter.classifier.model.own import files_of_factory
from litmeter.classifier.model.settings import ModelKind, ModelSettings
from litmeter.errors import LitmeterError, ModelError, ParamsError
from litmeter.system.imports import lean_import

timm = lean_import("timm")
lean_import("timm.data")


def build_model(kind: ModelKind, architecture: str, num_classes: int, image_size: int) -> torch.nn.Module:
    """A timm model with random weights, the factory's model, or an empty model for an ONNX file's state.

    Raise ModelError where timm cannot build it, ParamsError where the factory fails.
    """
    if kind == "name":
        return timm_model(architecture, num_classes, image_size)
    if kind == "factory":
        return made_by(architecture)
    from litmeter.classifier.model.graph import GraphModel  # imports OpenVINO

    return GraphModel()


def timm_model(name: str, num_classes: int, image_size: int, hub: bool = False) -> torch.nn.Module:
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


def made_by(factory: str) -> torch.nn.Module:
    """The torch module that ``module:function`` returns; raise ParamsError where there is none."""
    files_of_factory(factory)
    module, _, function = factory.partition(":")
    try:
        made = getattr(importlib.import_module(module), function)()
    except Exception as error:
        raise ParamsError(f"model.factory: {factory}: {reason(error)}") from error
    if not isinstance(made, torch.nn.Module):
        raise ParamsError(
            f"model.factory: {factory} returns {type(made).__name__}; allowed: a torch.nn.Module"
        )
    return made


def reason(error: Exception) -> str:
    """An exception's message in one line; with the place, unless it is litmeter's own."""
    if isinstance(error, LitmeterError):
        return str(error)
    place = extract_tb(error.__traceback__)[-1]
    line = " ".join(str(error).split())[:300]
    return f"{type(error).__name__}: {line} ({Path(place.filename).name}, line {place.lineno})"


def check_shapes(model: torch.nn.Module, settings: ModelSettings, classes: Sequence[str]) -> None:
    """Raise ParamsError unless the model answers each image with one logit for each of ``classes``."""
    what = f"model.{settings.kind}: {settings.architecture}"
    images = torch.rand(2, 3, settings.side, settings.side, generator=torch.Generator().manual_seed(0))
    try:
        with torch.no_grad():
            logits = model(images)
    except Exception as error:
        raise ParamsError(
            f"{what} takes no images {tuple(images.shape)}, as model.preprocess.size says: {reason(error)}"
        ) from error
    found = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
    if found != (len(images), len(classes)):
        listed = ", ".join(classes[:4]) + (", ..." if len(classes) > 4 else "")
        raise ParamsError(
            f"{what} answers {found} to images {tuple(images.shape)}; allowed: {len(images), len(classes)}, "
            f"logits of the classes {listed}; model.classes may list others"
        )
    if logits.min() >= 0 and torch.allclose(logits.sum(dim=1), torch.ones(len(images)), atol=1e-3):
        raise ParamsError(f"{what} answers probabilities; allowed: logits, as they are before the softmax")


def input_config(model: torch.nn.Module, settings: ModelSettings) -> dict[str, Any]:
    """Preprocessing parameters of params.yaml, or else timm's: mean, std, interpolation, crop_pct."""
    if given := settings.preprocess:
        return {**given.model_dump(include={"mean", "std", "interpolation"}), "crop_pct": given.crop}
    config = timm.data.resolve_data_config({}, model=model)
    return {key: config[key] for key in ("mean", "std", "interpolation", "crop_pct")}


def load_model(folder: Path, card: ModelCard, device: torch.device, dtype: torch.dtype) -> torch.nn.Module:
    """The exported model in ``folder``, ready for float tensors (N, 3, size, size) of ``dtype``.

    Raise ModelError where the code of a factory has changed since the export.
    """
    # Full precision means IEEE float32: without this, convolutions on a GPU run in TF32.
    torch.backends.cudnn.allow_tf32 = False
    check_code(card)
    model = build_model(card.kind, card.architecture, len(card.classes), card.image_size)
    model.load_state_dict(load_file(folder / WEIGHTS_NAME))
    return model.eval().to(device, dtype)


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
