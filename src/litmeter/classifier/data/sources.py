"""Sources of photographs: Oxford-IIIT Pet, or a folder per class, checked and split into an index."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path
from typing import Any

from PIL import Image

from litmeter.classifier.data.index import SPLITS, Index, Photo
from litmeter.classifier.data.settings import DataSettings
from litmeter.errors import DataError
from litmeter.paths import DOWNLOAD_FOLDER
from litmeter.say.progress import bar
from litmeter.system.imports import lean_import

datasets = lean_import("torchvision.datasets")

Item = tuple[str, int]
"""Path and label of a photograph."""
OXFORD_NAME = "oxford-iiit-pet"
"""Subfolder in torchvision's layout of Oxford-IIIT Pet; a folder without it has class folders."""


def make_index(settings: DataSettings) -> Index:
    """The index of the source that ``settings`` name; what it does not split itself is split at random.

    Raise DataError where there is no source, or a split lacks a class.
    """
    root = DOWNLOAD_FOLDER if settings.download else Path(settings.folder)
    is_oxford = (root / OXFORD_NAME).is_dir()
    classes, rest, test = _oxford(root, settings.task) if is_oxford else _class_folders(settings.folder)
    rng = random.Random(settings.seed)
    if not test:
        rest, test = _split(rest, settings.test_fraction, rng)
    train, val = _split(rest, settings.val_fraction, rng)
    photos = [
        Photo(path=path, label=label, split=name, sha256=_sha256(Path(path)))
        for name, items in zip(SPLITS, (train, val, test), strict=True)
        for path, label in items
    ]
    index = Index(classes=classes, photos=photos)
    index.check()
    return index


def download() -> str:
    """Download Oxford-IIIT Pet unless it is there; return a hash of its files and their names.

    Raise DataError where it cannot be downloaded.
    """
    try:
        datasets.OxfordIIITPet(DOWNLOAD_FOLDER, download=True)
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"data.download: Oxford-IIIT Pet cannot be downloaded ({error}); without a network set "
            "data.download to false, for the photos in data/sample"
        ) from error
    folder = DOWNLOAD_FOLDER / OXFORD_NAME
    files = sorted(path for path in folder.glob("*/*") if path.is_file())  # without the archives
    lines = [f"{_sha256(path)} {path.relative_to(folder)}\n" for path in files]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def check_readable(index: Index) -> None:
    """Decode every photograph once; raise DataError naming the first file that is not a whole image."""
    with bar(len(index.photos), "checking photos", "photo") as progress:
        for photo in index.photos:
            try:
                with Image.open(photo.path) as image:
                    image.load()
            except Exception as error:  # Pillow's plugins raise whatever their parsers hit
                raise DataError(f"{photo.path}: not a readable image ({error})") from error
            progress.update()


def _oxford(root: Path, task: str) -> tuple[list[str], list[Item], list[Item]]:
    """Oxford-IIIT Pet: the classes, its trainval split, and its test split."""
    try:
        rest, test = (datasets.OxfordIIITPet(root, split=split) for split in ("trainval", "test"))
    except (OSError, RuntimeError, ValueError) as error:
        raise DataError(f"{root / OXFORD_NAME}: not Oxford-IIIT Pet ({error})") from error

    def items(dataset: Any) -> list[Item]:
        # The public interface yields decoded images, not paths.
        labels = dataset._bin_labels if task == "species" else dataset._labels
        return [(str(path), label) for path, label in zip(dataset._images, labels, strict=True)]

    return ["cat", "dog"] if task == "species" else rest.classes, items(rest), items(test)


def _class_folders(folder: str) -> tuple[list[str], list[Item], list[Item]]:
    """One folder per class (torchvision's ImageFolder): the classes, all photos, and no test split."""
    try:
        dataset = datasets.ImageFolder(folder)
    except (OSError, RuntimeError) as error:
        raise DataError(f"data.folder {folder}: {' '.join(str(error).split())}") from error
    if {name.lower() for name in dataset.classes} <= {"train", "val", "valid", "validation", "test"}:
        raise DataError(
            f"data.folder {folder}: holds splits {dataset.classes}; expected one folder per class, which are "
            "split here (data.test_fraction, data.val_fraction)"
        )
    return dataset.classes, dataset.samples, []


def _split(items: list[Item], fraction: float, rng: random.Random) -> tuple[list[Item], list[Item]]:
    """Split the ``items``; the second list has the share ``fraction`` of each label, at least one."""
    taken: set[str] = set()
    for label in sorted({label for _, label in items}):
        paths = [path for path, other in items if other == label]
        taken.update(rng.sample(paths, max(1, round(len(paths) * fraction))))
    rest = [item for item in items if item[0] not in taken]
    return rest, [item for item in items if item[0] in taken]


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
