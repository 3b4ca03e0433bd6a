"""A model's files: those that its card vouches for, and nothing in them is run."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from litmeter.cli.main import main, other_model
from litmeter.inference.card import CARD_NAME, WEIGHTS_NAME, read_card
from litmeter.paths import MODEL, ModelFolders
from litmeter.system.files import write_json
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


def test_a_model_that_dvc_lock_does_not_have_is_named(
    exported: ModelFolders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a run that was interrupted leaves it; the lock is DVC's own."""
    monkeypatch.chdir(tmp_path)
    assert other_model(MODEL.exported) is None  # there is neither a model nor a lock
    shutil.copytree(exported.exported, "made")
    stage = {"cmd": f"mkdir -p models; cp -r made {MODEL.exported}", "outs": [str(MODEL.exported)]}
    Path("dvc.yaml").write_text(yaml.safe_dump({"stages": {"export": stage}}))
    for command in ("init -q --no-scm", "repro -q"):
        subprocess.run([Path(sys.executable).with_name("dvc"), *command.split()], check=True)
    assert other_model(MODEL.exported) is None
    card = read_card(MODEL.exported).model_copy(update={"test_accuracy": 0.125})
    (MODEL.exported / CARD_NAME).unlink()  # DVC may have linked it
    write_json(MODEL.exported / CARD_NAME, card.model_dump(mode="json"))
    said = other_model(MODEL.exported)
    assert said is not None
    assert said.startswith(f"models/exported is not the model of dvc.lock, but {card.architecture}, ")
    assert "0.125" in said
    subprocess.run([Path(sys.executable).with_name("dvc"), "checkout", "-q", "--force"], check=True)
    assert other_model(MODEL.exported) is None


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
