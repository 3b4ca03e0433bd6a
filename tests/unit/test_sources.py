"""Sources of photographs, and the index: what is accepted, and what is refused."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image
from torchvision.datasets import OxfordIIITPet

from litmeter.classifier.data.index import read_index
from litmeter.classifier.data.settings import DataSettings
from litmeter.classifier.data.sources import check_readable, download, make_index
from litmeter.errors import DataError
from litmeter.paths import DOWNLOAD_FOLDER, INDEX
from litmeter.system.files import write_json
from tests.support.project import PHOTOS, ROOT


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def settings(**changes: object) -> DataSettings:
    given = {
        "folder": str(ROOT / "data/sample"),
        "download": False,
        "task": "species",
        "val_fraction": 0.15,
        "test_fraction": 0.25,
        "seed": 42,
    }
    return DataSettings.model_validate({**given, **changes})


def class_folders(root: Path, **counts: int) -> str:
    source = sorted(PHOTOS.glob("*.jpg"))
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for number in range(count):
            shutil.copy(source[number], root / name / f"{number}.jpg")
    return str(root)


def test_the_shipped_photos_by_species() -> None:
    index = make_index(settings())
    assert index.classes == ["cat", "dog"]
    assert Counter(photo.split for photo in index.photos) == {"train": 220, "val": 39, "test": 111}
    assert Counter(photo.label for photo in index.photos) == {0: 120, 1: 250}
    assert len({photo.path for photo in index.photos}) == 370


def test_the_shipped_photos_by_breed() -> None:
    index = make_index(settings(task="breed"))
    assert len(index.classes) == 37
    assert index.classes[0] == "Abyssinian"
    for split, each in (("train", 6), ("val", 1), ("test", 3)):
        assert set(Counter(photo.label for photo in index.split(split)).values()) == {each}


def test_the_test_split_is_the_datasets_own() -> None:
    names = (ROOT / "data/sample/oxford-iiit-pet/annotations/test.txt").read_text().splitlines()
    expected = {line.split()[0] for line in names}
    assert {Path(photo.path).stem for photo in make_index(settings()).split("test")} == expected


def test_splits_follow_the_seed_alone() -> None:
    assert make_index(settings()) == make_index(settings())
    other = make_index(settings(seed=43))
    assert other != make_index(settings())
    assert other.split("test") == make_index(settings()).split("test")


def test_class_folders_are_split_within_each_class(tmp_path: Path) -> None:
    index = make_index(settings(folder=class_folders(tmp_path / "mine", apple=20, pear=8)))
    assert index.classes == ["apple", "pear"]
    counts = {
        split: Counter(photo.label for photo in index.split(split)) for split in ("train", "val", "test")
    }
    assert counts == {"train": {0: 13, 1: 5}, "val": {0: 2, 1: 1}, "test": {0: 5, 1: 2}}


def test_the_index_comes_back_unless_a_photo_is_gone(tmp_path: Path) -> None:
    index = make_index(settings(folder=class_folders(tmp_path / "mine", apple=8, pear=8)))
    write_json(INDEX, index.model_dump())
    assert read_index() == index
    Path(index.photos[0].path).unlink()
    with pytest.raises(DataError, match="is not there any more"):
        read_index()


@pytest.mark.parametrize(
    ("counts", "reason"),
    [
        ({"apple": 8, "pear": 0}, "pear"),
        ({"apple": 8, "pear": 1}, "class 'pear' has no photo in the train split"),
        ({"apple": 8}, "two classes or more"),
        ({"train": 4, "test": 4}, "expected one folder per class"),
    ],
)
def test_folders_that_are_no_classes_are_refused(tmp_path: Path, counts: dict[str, int], reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        make_index(settings(folder=class_folders(tmp_path / "mine", **counts)))


def test_an_empty_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"data\.folder .*empty"):
        make_index(settings(folder=str(tmp_path / "empty")))


@pytest.mark.parametrize("damage", ["text", "truncated"])
def test_an_unreadable_photo_is_named(tmp_path: Path, damage: str) -> None:
    index = make_index(settings(folder=class_folders(tmp_path / "mine", apple=8, pear=8)))
    victim = Path(index.photos[5].path)
    whole = victim.read_bytes()
    content = {"text": b"no image", "truncated": whole[: len(whole) // 2]}
    victim.write_bytes(content[damage])
    with pytest.raises(DataError, match=f"{victim}: not a readable image"):
        check_readable(index)


def test_other_formats_than_jpeg_are_readable(tmp_path: Path) -> None:
    folder = Path(class_folders(tmp_path / "mine", apple=6, pear=6))
    with Image.open(folder / "apple/0.jpg") as image:
        image.save(folder / "apple/a.png")
        image.save(folder / "pear/b.webp")
    index = make_index(settings(folder=str(folder)))
    check_readable(index)
    assert len(index.photos) == 14


def test_a_failed_download_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    # A port on which nobody listens refuses as a machine without a network does.
    nowhere = (("http://127.0.0.1:9/images.tar.gz", "0" * 32),)
    monkeypatch.setattr(OxfordIIITPet, "_RESOURCES", nowhere)
    with pytest.raises(DataError, match=r"cannot be downloaded .* set data\.download to false"):
        download()


def test_another_photo_under_the_same_name_is_another_download_and_index() -> None:
    shutil.copytree(ROOT / "data/sample", DOWNLOAD_FOLDER)
    before, index = download(), make_index(settings(download=True))
    assert download() == before
    one, other = (Path(photo.path) for photo in index.photos[:2])
    shutil.copy(one, other)
    assert download() != before
    changed = make_index(settings(download=True))
    assert [photo.path for photo in changed.photos] == [photo.path for photo in index.photos]
    assert [new != old for new, old in zip(changed.photos, index.photos, strict=True)].count(True) == 1
