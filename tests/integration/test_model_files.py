"""A model's files: those that its card vouches for, and nothing in them is run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from litmeter.cli.main import main
from litmeter.inference.card import CARD_NAME, WEIGHTS_NAME
from litmeter.paths import ModelFolders
from tests.support.servers import make_project


def test_weights_that_differ_from_their_model_card_are_refused(
    exported: ModelFolders,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    make_project(tmp_path, exported)
    weights = Path("models/exported") / WEIGHTS_NAME
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert main(["serve"]) == 1
    error = capsys.readouterr().err
    assert f"{WEIGHTS_NAME} is not the file that {CARD_NAME} was written for" in error
    assert error.count("\n") == 1


def test_loading_and_running_a_model_reads_no_pickle(exported: ModelFolders, photos: list[Path]) -> None:
    """Python tells its audit hooks of each name that a pickle looks up, from whatever file."""
    program = f"""
import sys
from pathlib import Path
from litmeter.params import ServeSettings
from litmeter.inference.card import CARD_NAME, WEIGHTS_NAME
from litmeter.paths import ModelFolders
from litmeter.inference.predictor import Predictor
import litmeter.inference.model

def refuse(event, arguments):
    if event == "pickle.find_class":
        raise RuntimeError(f"a pickle asks for {{arguments}}")

sys.addaudithook(refuse)
folders = ModelFolders(Path({str(exported.exported)!r}), Path({str(exported.compiled)!r}))
classifier = Predictor(folders, "cpu", ServeSettings(preprocess="torchvision"))
print(classifier.predict([classifier.preprocess(Path({str(photos[0])!r}).read_bytes())]).shape)
import pickle
pickle.loads(pickle.dumps(Path))
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert ran.stdout == "torch.Size([1, 3])\n"
    assert ran.stderr.endswith("RuntimeError: a pickle asks for ('pathlib', 'Path')\n")
