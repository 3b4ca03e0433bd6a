"""Downloaded photos, which lie in no folder that dvc.yaml names: a stage runs again where they are others."""

from __future__ import annotations

import shutil
from collections.abc import Callable

from tests.pipeline.conftest import TINY, Clone


def test_another_photo_under_the_same_name_runs_what_reads_photos_again(
    new_clone: Callable[[], Clone],
) -> None:
    clone = new_clone()
    clone.change(TINY | {"data": {"download": True}})
    clone.keep_few_photos()
    folder = clone.path / "data/download"
    shutil.copytree(clone.path / "data/sample", folder)  # as torchvision would have left it

    def stages_run() -> list[str]:
        return clone.stages_run(clone.dvc("repro", "data").stdout)

    assert stages_run() == ["machine", "data"]
    index = (clone.path / "data/index.json").read_bytes()
    assert b"data/download" in index
    assert stages_run() == ["machine"]
    one, other, *_ = sorted((folder / "oxford-iiit-pet/images").iterdir())
    shutil.copy(one, other)
    assert stages_run() == ["machine", "data"]
    assert (clone.path / "data/index.json").read_bytes() != index  # on which all depend that read photos
