"""The models that the goals name, exported and compiled: the pipeline's own, and others without weights."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

from servebench.errors import ModelError
from servebench.inference.card import CARD_NAME, WEIGHTS_NAME, ModelCard, sha256
from servebench.inference.compiled.build import compile_model
from servebench.inference.compiled.manifest import read_manifest
from servebench.inference.model import build_model, input_config
from servebench.params import ServeSettings, load_params
from servebench.paths import EXPORT_FOLDER
from servebench.system.files import write_json

FOLDER = Path("models/benchmarks")
IMAGE_SIZE = 224
MODELS = (None, "convnext_tiny", "mobilenetv3_small_100")
"""timm's names; None is the pipeline's own."""
MAX_BATCH_SIZES = {"mobilenetv3_small_100": 8}
"""Where more than that of ``e7_tuned`` serves more (``studies.batch_size``)."""


def tuned(name: str | None) -> ServeSettings:
    """``e7_tuned`` with the batch size that suits the timm model ``name``; None: the pipeline's."""
    settings = load_params().configuration("e7_tuned")
    largest = MAX_BATCH_SIZES.get(name or "", settings.max_batch_size)
    return settings.model_copy(update={"max_batch_size": largest})


def exported(name: str | None) -> Path:
    """The folder of the timm model ``name`` with random weights and its packages; None: the pipeline's."""
    return EXPORT_FOLDER if name is None else with_packages(name, tuned(name).max_batch_size)


def with_packages(name: str | None, largest: int) -> Path:
    """The folder of a timm model, or of a copy of the pipeline's, with packages up to size ``largest``."""
    folder = FOLDER / (name or "default") / "exported"
    if name is None:
        shutil.copytree(EXPORT_FOLDER, folder, dirs_exist_ok=True)
    elif not (folder / CARD_NAME).exists():
        export(name, folder)
    compiled = folder.parent / "compiled"
    sizes = range(1, largest + 1)
    try:
        found = {
            package.batch_size for package in read_manifest(compiled, folder, torch.device("cpu")).packages
        }
    except ModelError:
        found = set()
    if not found.issuperset(sizes):
        compile_model(folder, compiled, "cpu", sizes)
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
