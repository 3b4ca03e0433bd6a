"""Sources of photographs: Oxford-IIIT Pet, or a folder per class, checked and split into an index."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

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
    """The index of the source that ``settings`` name.

    Raise DataError where there is no source, or a split lacks a class.
    """
    root = DOWNLOAD_FOLDER if settings.download else Path(settings.folder)
    index = _oxford(root, settings) if (root / OXFORD_NAME).is_dir() else _class_folders(settings)
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


def _oxford(root: Path, settings: DataSettings) -> Index:
    """Oxford-IIIT Pet with its own test split; its trainval split is divided."""
    classes: list[str] = []
    items: dict[str, list[Item]] = {}
    for split in ("trainval", "test"):
        try:
            dataset = datasets.OxfordIIITPet(root, split=split)
        except (OSError, RuntimeError, ValueError) as error:
            raise DataError(f"{root / OXFORD_NAME}: not Oxford-IIIT Pet ({error})") from error
        species = settings.task == "species"
        # The public interface yields decoded images, not paths.
        labels = dataset._bin_labels if species else dataset._labels
        items[split] = [(str(path), label) for path, label in zip(dataset._images, labels, strict=True)]
        if split == "trainval":
            classes = ["cat", "dog"] if species else dataset.classes
    rng = random.Random(settings.seed)
    train, val = _split(items["trainval"], settings.val_fraction, rng)
    return _index(classes, train, val, items["test"])


def _class_folders(settings: DataSettings) -> Index:
    """One folder per class (torchvision's ImageFolder), split at random."""
    try:
        dataset = datasets.ImageFolder(settings.folder)
    except (OSError, RuntimeError) as error:
        raise DataError(f"data.folder {settings.folder}: {' '.join(str(error).split())}") from error
    if {name.lower() for name in dataset.classes} <= {"train", "val", "valid", "validation", "test"}:
        raise DataError(
            f"data.folder {settings.folder}: holds splits {dataset.classes}; expected one folder per "
            "class, which are split here (data.test_fraction, data.val_fraction)"
        )
    rng = random.Random(settings.seed)
    rest, test = _split(dataset.samples, settings.test_fraction, rng)
    train, val = _split(rest, settings.val_fraction, rng)
    return _index(dataset.classes, train, val, test)


def _split(items: list[Item], fraction: float, rng: random.Random) -> tuple[list[Item], list[Item]]:
    """Split the ``items``; the second list has the share ``fraction`` of each label, at least one."""
    taken: set[str] = set()
    for label in sorted({label for _, label in items}):
        paths = [path for path, other in items if other == label]
        taken.update(rng.sample(paths, max(1, round(len(paths) * fraction))))
    rest = [item for item in items if item[0] not in taken]
    return rest, [item for item in items if item[0] in taken]


def _index(classes: list[str], *splits: list[Item]) -> Index:
    photos = [
        Photo(path=path, label=label, split=name, sha256=_sha256(Path(path)))
        for name, items in zip(SPLITS, splits, strict=True)
        for path, label in items
    ]
    return Index(classes=classes, photos=photos)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
