"""The index of photographs."""

from __future__ import annotations

import pytest

from litmeter.data.index import Index, Photo
from litmeter.errors import DataError


def test_a_split_without_a_class_is_refused() -> None:
    photos = [Photo(path="a", label=0, split="train"), Photo(path="b", label=1, split="train")]
    with pytest.raises(DataError, match="class 'cat' has no photo in the val split"):
        Index(classes=["cat", "dog"], photos=photos).check()
