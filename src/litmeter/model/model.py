"""Models: timm's by name, or one's own; their input configuration; loaded from an exported folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from litmeter.errors import ModelError, ParamsError
from litmeter.model.card import GRAPH_NAMES, WEIGHTS_NAME, ModelCard, check_code
from litmeter.model.own import made_by, reason
from litmeter.params import ModelSettings
from litmeter.system.imports import lean_import

timm = lean_import("timm")
lean_import("timm.data")


def build_model(settings: ModelSettings, num_classes: int) -> torch.nn.Module:
    """The model that ``settings`` name: timm's with random weights, one's own as it is.

    Raise ModelError where timm cannot build it, ParamsError where one's own is not a model.
    """
    if settings.name:
        return timm_model(settings.name, num_classes, settings.side)
    if settings.factory:
        return made_by(settings.factory)
    return onnx_model(Path(str(settings.onnx)), settings.side)


def onnx_model(path: Path, image_size: int) -> torch.nn.Module:
    """The model in an ONNX file, or in an exported graph; raise ParamsError as ``read_graph``."""
    from litmeter.model.graph import GraphModel, read_graph  # OpenVINO may not be installed

    return GraphModel(read_graph(path, image_size), image_size)


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


def check_shapes(model: torch.nn.Module, settings: ModelSettings, classes: Sequence[str]) -> None:
    """Raise ParamsError unless a model of one's own answers images with a logit for each of ``classes``."""
    what = f"model.{settings.kind}: {settings.architecture}"
    images = torch.rand(2, 3, settings.side, settings.side, generator=torch.Generator().manual_seed(0))
    try:
        with torch.no_grad():
            logits = model(images)
    except Exception as error:
        raise ParamsError(f"{what} takes no images {tuple(images.shape)}: {reason(error)}") from error
    found = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
    if found != (len(images), len(classes)):
        listed = ", ".join(classes[:4]) + (", ..." if len(classes) > 4 else "")
        raise ParamsError(
            f"{what} answers {found} to images {tuple(images.shape)}; allowed: {len(images), len(classes)}, "
            f"logits of the {len(classes)} classes {listed} (those of the data, or model.classes)"
        )
    if logits.min() >= 0 and torch.allclose(logits.sum(dim=1), torch.ones(len(images)), atol=1e-3):
        raise ParamsError(f"{what} answers probabilities; allowed: logits, as they are before the softmax")


def input_config(model: torch.nn.Module, settings: ModelSettings) -> dict[str, Any]:
    """Preprocessing parameters, timm's or one's own: mean, std, interpolation, crop_pct."""
    if own := settings.preprocess:
        return {**own.model_dump(include={"mean", "std", "interpolation"}), "crop_pct": own.crop}
    config = timm.data.resolve_data_config({}, model=model)
    return {key: config[key] for key in ("mean", "std", "interpolation", "crop_pct")}


def load_model(folder: Path, card: ModelCard, device: torch.device, dtype: torch.dtype) -> torch.nn.Module:
    """The exported model in ``folder``, ready for float tensors (N, 3, size, size) of ``dtype``.

    Raise ModelError where a factory's code is not what was exported.
    """
    # Full precision means IEEE float32: without this, convolutions on a GPU run in TF32.
    torch.backends.cudnn.allow_tf32 = False
    if card.kind == "onnx":
        return onnx_model(folder / GRAPH_NAMES[0], card.image_size)
    check_code(card)
    if card.kind == "factory":
        model = made_by(card.architecture)
    else:
        model = timm_model(card.architecture, len(card.classes), card.image_size)
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
