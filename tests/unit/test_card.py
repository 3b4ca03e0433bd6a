"""The model card, and the weights that it belongs to."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from litmeter.classifier.model.card import CARD_NAME, WEIGHTS_NAME, read_card
from litmeter.errors import ModelError
from litmeter.paths import ModelFolders


def copied(exported: ModelFolders, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported.exported, tmp_path / "copy"))


def test_weights_of_another_card_are_refused(exported: ModelFolders, tmp_path: Path) -> None:
    folder = copied(exported, tmp_path)
    content = bytearray((folder / WEIGHTS_NAME).read_bytes())
    content[-1] ^= 1
    (folder / WEIGHTS_NAME).write_bytes(content)
    with pytest.raises(ModelError, match="is not the file that"):
        read_card(folder)


@pytest.mark.parametrize("change", [{"classes": ["one"]}, {"surprise": 1}])
def test_a_malformed_card_is_refused(
    exported: ModelFolders, tmp_path: Path, change: dict[str, object]
) -> None:
    folder = copied(exported, tmp_path)
    card = json.loads((folder / CARD_NAME).read_text()) | change
    (folder / CARD_NAME).write_text(json.dumps(card))
    with pytest.raises(ModelError, match=r"model\.json"):
        read_card(folder)
