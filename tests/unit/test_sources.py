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
    given = {"folder": str(ROOT / "data/sample"), "download": False, "task": "species", "seed": 42}
    return DataSettings.model_validate({"val_fraction": 0.15, "test_fraction": 0.25, **given, **changes})


def class_folders(**counts: int) -> DataSettings:
    source = sorted(PHOTOS.glob("*.jpg"))
    for name, count in counts.items():
        (folder := Path("mine") / name).mkdir(parents=True)
        for number in range(count):
            shutil.copy(source[number], folder / f"{number}.jpg")
    return settings(folder="mine")


def test_the_shipped_photos_keep_the_datasets_test_split() -> None:
    index = make_index(settings())
    assert index.classes == ["cat", "dog"]
    assert Counter(photo.split for photo in index.photos) == {"train": 220, "val": 39, "test": 111}
    assert Counter(photo.label for photo in index.photos) == {0: 120, 1: 250}
    names = (ROOT / "data/sample/oxford-iiit-pet/annotations/test.txt").read_text().splitlines()
    assert {Path(photo.path).stem for photo in index.split("test")} == {line.split()[0] for line in names}
    breeds = make_index(settings(task="breed"))
    assert (len(breeds.classes), breeds.classes[0]) == (37, "Abyssinian")
    for split, each in (("train", 6), ("val", 1), ("test", 3)):
        assert set(Counter(photo.label for photo in breeds.split(split)).values()) == {each}


def test_splits_follow_the_seed_alone() -> None:
    index, other = make_index(settings()), make_index(settings(seed=43))
    assert make_index(settings()) == index != other
    assert other.split("test") == index.split("test")


def test_class_folders_are_split_within_each_class_and_read_again_unless_a_photo_is_gone() -> None:
    index = make_index(class_folders(apple=20, pear=8))
    assert index.classes == ["apple", "pear"]
    counts = {
        split: Counter(photo.label for photo in index.split(split)) for split in ("train", "val", "test")
    }
    assert counts == {"train": {0: 13, 1: 5}, "val": {0: 2, 1: 1}, "test": {0: 5, 1: 2}}
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
        ({}, r"data\.folder mine"),
    ],
)
def test_folders_that_are_no_classes_are_refused(counts: dict[str, int], reason: str) -> None:
    Path("mine").mkdir()
    with pytest.raises(DataError, match=reason):
        make_index(class_folders(**counts))


def test_other_formats_than_jpeg_are_readable_and_an_unreadable_photo_is_named() -> None:
    photos = class_folders(apple=6, pear=6)
    with Image.open("mine/apple/0.jpg") as image:
        image.save("mine/apple/a.png")
        image.save("mine/pear/b.webp")
    index = make_index(photos)
    check_readable(index)
    assert len(index.photos) == 14
    victim = Path(index.photos[5].path)
    whole = victim.read_bytes()
    for content in (b"no image", whole[: len(whole) // 2]):
        victim.write_bytes(content)
        with pytest.raises(DataError, match=f"{victim}: not a readable image"):
            check_readable(index)


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
