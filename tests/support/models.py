"""A tiny model, exported as the stage ``export`` does it, and manifests of packages compiled from it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from litmeter.classifier.model.card import CARD_NAME, WEIGHTS_NAME, ModelCard, sha256
from litmeter.classifier.model.compiled.manifest import MANIFEST_NAME, identity
from litmeter.classifier.model.model import build_model, input_config
from litmeter.classifier.model.settings import ModelSettings
from litmeter.paths import ModelFolders
from litmeter.system.files import write_json

CLASSES = ["cat", "dog", "fox"]


def export_tiny(folder: Path, image_size: int = 96, classes: Sequence[str] = CLASSES) -> ModelFolders:
    """Export timm's tiny test model, with random weights, to new folders in ``folder``; none is compiled."""
    folders = ModelFolders(exported=folder / "exported", compiled=folder / "compiled")
    folders.exported.mkdir()
    torch.manual_seed(0)
    settings = ModelSettings(name="test_efficientnet", pretrained="none", image_size=image_size)
    model = build_model("name", "test_efficientnet", len(classes), image_size).eval()
    # Scaled up, so that random weights answer different photos differently.
    model.get_classifier().weight.data.mul_(50)
    save_file(model.state_dict(), folders.exported / WEIGHTS_NAME)
    card = ModelCard.model_validate(
        {
            "architecture": "test_efficientnet",
            "classes": classes,
            "image_size": image_size,
            **input_config(model, settings),
            "test_accuracy": 0.5,
            "test_images": 10,
            "weights_sha256": sha256(folders.exported / WEIGHTS_NAME),
        }
    )
    write_json(folders.exported / CARD_NAME, card.model_dump(mode="json"))
    return folders


def write_manifest(folders: ModelFolders, **changes: Any) -> None:
    """Write a manifest of this model and machine, without packages, but for ``changes``."""
    model, machine = identity(folders.exported)
    content = {"model": model, "machine": machine, "device": "cpu", "skipped_reason": None, "packages": []}
    write_json(folders.compiled / MANIFEST_NAME, content | changes)
