"""The models that are measured, exported and compiled: the pipeline's own, and others with random weights."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file

from litmeter.errors import ModelError
from litmeter.inference.card import CARD_NAME, WEIGHTS_NAME, ModelCard, sha256
from litmeter.inference.compiled.build import compile_model
from litmeter.inference.compiled.manifest import read_manifest
from litmeter.inference.model import build_model, input_config
from litmeter.params import ServeSettings, load_params
from litmeter.paths import MODEL, ModelFolders
from litmeter.system.files import write_json
from litmeter.system.machine import exclusive_machine
from studies import DEVICE

FOLDER = Path("models/studies")
IMAGE_SIZE = 224
DEFAULT = "default"
MODELS = (DEFAULT, "convnext_tiny", "mobilenetv3_small_100")
"""The pipeline's own, and timm's by name."""
MAX_BATCH_SIZES = {"mobilenetv3_small_100": 8}
"""Where another than that of ``e7_tuned`` serves more."""


def tuned(name: str) -> ServeSettings:
    """``e7_tuned`` with the batch size that suits the model ``name``."""
    settings = load_params().configuration("e7_tuned")
    return settings.model_copy(update={"max_batch_size": MAX_BATCH_SIZES.get(name, settings.max_batch_size)})


def exported(name: str) -> ModelFolders:
    """The model ``name`` with the packages that ``tuned(name)`` needs."""
    return MODEL if name == DEFAULT else with_packages(name, tuned(name).max_batch_size)


def with_packages(name: str, largest: int, calibration: Sequence[Path] = ()) -> ModelFolders:
    """A timm model, or a copy of the pipeline's, with a package for each batch size up to ``largest``.

    Args:
        calibration: photos for packages in int8; none: there are no such packages.
    """
    folders = ModelFolders(FOLDER / name / "exported", FOLDER / name / "compiled")
    if name == DEFAULT:
        shutil.copytree(MODEL.exported, folders.exported, dirs_exist_ok=True)
    elif not (folders.exported / CARD_NAME).exists():
        export(name, folders.exported)
    sizes = range(1, largest + 1)
    try:
        packages = read_manifest(folders, DEVICE).packages
    except ModelError:
        packages = []
    needed = "int8" if calibration else "full"
    if not {package.batch_size for package in packages if package.precision == needed}.issuperset(sizes):
        with exclusive_machine():
            compile_model(folders, DEVICE, sizes, calibration)
    return folders


def export(name: str, folder: Path) -> None:
    """Write the timm model ``name`` with random weights, which are as fast as others."""
    folder.mkdir(parents=True, exist_ok=True)
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
