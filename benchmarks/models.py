"""The models that the goals name, exported and compiled: the pipeline's own, and others without weights."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from servebench.card import CARD_NAME, WEIGHTS_NAME, ModelCard, sha256
from servebench.compiled.manifest import read_manifest
from servebench.compiled.run import compile_model
from servebench.errors import ModelError
from servebench.model import build_model, input_config
from servebench.params import load_params
from servebench.paths import EXPORT_FOLDER
from servebench.results import write_json

FOLDER = Path("models/benchmarks")
IMAGE_SIZE = 224


def exported(name: str | None) -> Path:
    """The folder of the timm model ``name`` with random weights and its packages; None: the pipeline's."""
    if name is None:
        return EXPORT_FOLDER
    folder = FOLDER / name / "exported"
    if not (folder / CARD_NAME).exists():
        export(name, folder)
    compiled = folder.parent / "compiled"
    try:
        read_manifest(compiled, folder, torch.device("cpu"))
    except ModelError:
        compile_model(folder, compiled, "cpu", load_params().compile.batch_sizes)
    return folder


def export(name: str, folder: Path) -> None:
    """Speed needs no training."""
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    model = build_model(name, 2, IMAGE_SIZE).eval()
    save_file(model.state_dict(), folder / WEIGHTS_NAME)
    card = ModelCard.model_validate(
        {
            "architecture": name,
            "classes": ["cat", "dog"],
            "image_size": IMAGE_SIZE,
            **input_config(model),
            "test_accuracy": 0.5,
            "test_images": 1,
            "weights_sha256": sha256(folder / WEIGHTS_NAME),
        }
    )
    write_json(folder / CARD_NAME, card.model_dump(mode="json"))
