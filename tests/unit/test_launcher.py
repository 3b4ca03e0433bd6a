"""What is checked before a server is started."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from litmeter.errors import ModelError, UsageError
from litmeter.inference.card import WEIGHTS_NAME
from litmeter.params import ServeSettings
from litmeter.paths import MODEL
from litmeter.serving.launcher import LONGEST_FOLDER, check_model, starting_server
from tests.support.models import export_tiny

AS_IT_IS = ServeSettings()


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    folders = export_tiny(tmp_path)
    (folders.exported / WEIGHTS_NAME).write_bytes(b"other weights")
    with pytest.raises(ModelError, match="is not the file that"):
        check_model(folders, AS_IT_IS)


def test_a_temporary_folder_too_long_for_sockets_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("x" * LONGEST_FOLDER)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    with (
        pytest.raises(UsageError, match=r"^TMPDIR: .* bytes too long .*; set it to a shorter one$"),
        starting_server(MODEL, AS_IT_IS, "cpu", timeout_s=1.0),
    ):
        pass
    assert list(long.iterdir()) == []
