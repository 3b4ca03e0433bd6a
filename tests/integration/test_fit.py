"""Training learns what can be learnt, and repeats by its seed."""

from __future__ import annotations

from pathlib import Path

import lightning
import pytest
import torch
from PIL import Image

from litmeter.classifier.data.index import SPLITS, Index, Photo
from litmeter.classifier.model.settings import ModelSettings
from litmeter.classifier.training.fit import ClassifierModule, fit
from litmeter.classifier.training.settings import TrainParams, TrainSettings

COLOURS = {"red": (200, 30, 30), "blue": (30, 30, 200)}
MODEL = ModelSettings(name="test_efficientnet", pretrained="none", image_size=64)
TRAIN = TrainSettings(
    epochs=4,
    batch_size=8,
    learning_rate=0.01,
    head_learning_rate_factor=1.0,
    weight_decay=0.0,
    frozen_share=0.0,
    num_workers=0,
    seed=1,
)


@pytest.fixture
def index(tmp_path: Path) -> Index:
    """Photos of one colour for each class."""
    photos = []
    for label, (name, colour) in enumerate(COLOURS.items()):
        for number in range(24):
            path = tmp_path / f"{name}{number}.png"
            Image.new("RGB", (64, 64), tuple(part + number for part in colour)).save(path)
            photos.append(Photo(path=str(path), label=label, split=SPLITS[number % 3], sha256=""))
    return Index(classes=list(COLOURS), photos=photos)


def fitted(index: Index, folder: Path, seed: int) -> ClassifierModule:
    folder.mkdir()
    lightning.seed_everything(seed, verbose=False)
    module, checkpoint = fit(TrainParams(device="cpu", model=MODEL, train=TRAIN), index, folder)
    assert checkpoint.is_relative_to(folder)
    return module


@pytest.mark.filterwarnings("ignore")  # Lightning's, of data and versions
def test_training_learns_and_repeats_by_its_seed(index: Index, tmp_path: Path) -> None:
    seeds = {"first": 1, "again": 1, "other": 2}
    first, again, other = (fitted(index, tmp_path / name, seed) for name, seed in seeds.items())
    losses = [row["train_loss"] for row in first.history]
    assert losses[-1] < 0.5 * losses[0]
    assert first.predicted == [photo.label for photo in index.split("test")]
    assert first.history == again.history != other.history
    weights, same = first.model.state_dict(), again.model.state_dict()
    assert all(torch.equal(weights[name], same[name]) for name in weights)
