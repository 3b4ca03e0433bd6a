"""The index: path, label, split and content of every photograph."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

from litmeter.errors import DataError, ParamsError
from litmeter.paths import INDEX
from litmeter.system.files import Record, read_json, reading

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)


class Photo(Record):
    """A photograph; ``label`` is an index into the classes.

    By ``sha256``, of the file, stages that read the index depend on the photo's content.
    """

    path: str
    label: int
    split: Split
    sha256: str


class Index(Record):
    """All photographs, and the names of the classes."""

    classes: list[str]
    photos: list[Photo]

    def split(self, name: Split) -> list[Photo]:
        """The photographs of one split, in the index's order."""
        return [photo for photo in self.photos if photo.split == name]

    def check(self) -> None:
        """Raise DataError for fewer than two classes, or a class without a photograph in some split."""
        if len(self.classes) < 2:
            raise DataError(f"a classifier needs two classes or more, got {self.classes}")
        for name in SPLITS:
            missing = set(range(len(self.classes))) - {photo.label for photo in self.split(name)}
            if missing:
                raise DataError(f"class {self.classes[min(missing)]!r} has no photo in the {name} split")

    def labelled(self, classes: Sequence[str]) -> Index:
        """The index with a model's ``classes``; raise ParamsError where a class of the data is missing."""
        if missing := [name for name in self.classes if name not in classes]:
            raise ParamsError(
                f"model.classes: got {', '.join(classes)}; {missing[0]} is missing, a class of the data"
            )
        labels = [classes.index(name) for name in self.classes]
        photos = [photo.model_copy(update={"label": labels[photo.label]}) for photo in self.photos]
        return Index(classes=list(classes), photos=photos)


def read_index(classes: Sequence[str] | None = None) -> Index:
    """Read the index that the stage ``data`` wrote, labelled by ``classes`` if they are given.

    Raise DataError where the index or a photograph is missing.
    """
    with reading(INDEX, "dvc repro data", DataError):
        index = Index.model_validate(read_json(INDEX))
    for photo in index.photos:
        if not Path(photo.path).is_file():
            raise DataError(f"{photo.path} is not there any more; `dvc repro --force data` looks again")
    return index.labelled(classes) if classes else index
