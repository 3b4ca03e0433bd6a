"""The model card, and the weights that it belongs to."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from litmeter.classifier.model.card import CARD_NAME, WEIGHTS_NAME, read_card
from litmeter.errors import ModelError
from litmeter.paths import ModelFolders


@pytest.mark.parametrize("change", [{"classes": ["one"]}, {"surprise": 1}, None])
def test_a_malformed_card_and_other_weights_are_refused(
    exported: ModelFolders, tmp_path: Path, change: dict[str, object] | None
) -> None:
    folder = Path(shutil.copytree(exported.exported, tmp_path / "copy"))
    if change:
        (folder / CARD_NAME).write_text(json.dumps(json.loads((folder / CARD_NAME).read_text()) | change))
    else:
        content = (folder / WEIGHTS_NAME).read_bytes()
        (folder / WEIGHTS_NAME).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ModelError, match=r"model\.json" if change else "is not the file that"):
        read_card(folder)
