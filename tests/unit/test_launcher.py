"""What is checked before a server is started."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from litmeter.classifier.model.card import WEIGHTS_NAME
from litmeter.errors import ModelError, UsageError
from litmeter.kinds.classifier import Classifier
from litmeter.kinds.server import LONGEST_FOLDER, Start
from litmeter.paths import ModelFolders
from tests.support.models import export_tiny


@pytest.mark.parametrize(
    ("made", "compiled", "stage"),
    [
        ("compiled", False, "export"),
        ("exported", True, "compile"),
        ("compiled", True, "compile"),  # which makes what it needs
    ],
)
def test_a_missing_model_names_the_stage_that_makes_it(
    tmp_path: Path, made: str, compiled: bool, stage: str
) -> None:
    (tmp_path / made).mkdir()
    with pytest.raises(ModelError, match=f"dvc repro {stage}"):
        Classifier(compiled=compiled, preprocess="torchvision").of(
            ModelFolders(tmp_path / "exported", tmp_path / "compiled")
        ).check_there()


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    folders = export_tiny(tmp_path)
    (folders.exported / WEIGHTS_NAME).write_bytes(b"other weights")
    with pytest.raises(ModelError, match="is not the file that"):
        Classifier().of(folders).check_there()


def test_a_temporary_folder_too_long_for_sockets_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (long := tmp_path / ("x" * LONGEST_FOLDER)).mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    with (
        pytest.raises(UsageError, match=r"^TMPDIR: .*$"),
        Classifier().starting(Start("cpu", timeout_s=1.0)),
    ):
        pass
    assert list(long.iterdir()) == []
