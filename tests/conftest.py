"""What several tests share: the project's root, and a tiny exported model."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import save_file

from servebench.card import CARD_NAME, WEIGHTS_NAME, ModelCard, sha256
from servebench.model import build_model, input_config
from servebench.results import write_json

ROOT = Path(__file__).resolve().parent.parent
PHOTOS = ROOT / "data/sample/oxford-iiit-pet/images"
CLASSES = ["cat", "dog", "fox"]


@pytest.fixture(scope="session")
def photos() -> list[Path]:
    """A dozen of the project's own photographs."""
    return sorted(PHOTOS.glob("*.jpg"))[::31]


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as ``export`` writes it, of timm's tiny test model with random weights."""
    return export_tiny(tmp_path_factory.mktemp("exported"))


def export_tiny(folder: Path, image_size: int = 96) -> Path:
    torch.manual_seed(0)
    model = build_model("test_efficientnet", len(CLASSES), image_size).eval()
    # Scaled up, so that random weights answer different photos differently.
    model.get_classifier().weight.data.mul_(50)
    save_file(model.state_dict(), folder / WEIGHTS_NAME)
    card = ModelCard.model_validate(
        {
            "architecture": "test_efficientnet",
            "classes": CLASSES,
            "image_size": image_size,
            **input_config(model),
            "test_accuracy": 0.5,
            "test_images": 10,
            "weights_sha256": sha256(folder / WEIGHTS_NAME),
        }
    )
    write_json(folder / CARD_NAME, card.model_dump(mode="json"))
    return folder


def processes_mentioning(text: str) -> list[int]:
    """Ids of living processes, other than this one, whose command line holds ``text``."""
    return [
        process.pid
        for process in psutil.process_iter(["cmdline", "status"])
        if text in " ".join(process.info["cmdline"] or [])
        and process.info["status"] != psutil.STATUS_ZOMBIE
        and process.pid != os.getpid()
    ]
