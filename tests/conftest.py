"""Fixtures of all tests."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from servebench.paths import ModelFolders
from tests.support.models import export_tiny
from tests.support.project import PHOTOS


@pytest.fixture(scope="session", autouse=True)
def own_temporary_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What a killed run has left is removed by the next command, with a line that is none of a test's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(tmp_path_factory.mktemp("own")))
        patch.setattr(tempfile, "tempdir", None)
        yield


@pytest.fixture(scope="session")
def photos() -> list[Path]:
    """A dozen of the project's own photographs."""
    return sorted(PHOTOS.glob("*.jpg"))[::31]


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> ModelFolders:
    """A tiny model, exported but not compiled."""
    return export_tiny(tmp_path_factory.mktemp("models"))
