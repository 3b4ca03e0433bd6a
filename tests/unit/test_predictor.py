"""Preprocessed images in, probabilities out."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from litmeter.classifier.model.model import timm_model
from litmeter.classifier.model.precision import dtype_name
from litmeter.classifier.model.predictor import Predictor
from litmeter.classifier.model.settings import InferenceSettings
from litmeter.errors import ModelError
from litmeter.kinds.classifier import Classifier
from litmeter.paths import ModelFolders


def test_channels_last_bytes_give_the_same_answers(exported: ModelFolders, photos: list[Path]) -> None:
    predictor = Predictor(exported, "cpu", Classifier(preprocess="torchvision"))
    batch = predictor.batch([predictor.preprocess(path.read_bytes()) for path in photos[:3]])
    assert (batch.shape[0], batch.dtype) == (3, torch.uint8)
    assert batch.is_contiguous(memory_format=torch.channels_last)
    first = predictor.forward(batch)
    again = predictor.forward(batch.contiguous())
    assert torch.allclose(first, again, atol=1e-5)
    assert not torch.equal(first[0], first[1])


def test_probabilities_do_not_depend_on_the_batch(exported: ModelFolders, photos: list[Path]) -> None:
    predictor = Predictor(exported, "cpu", Classifier())
    tensors = [predictor.preprocess(path.read_bytes()) for path in photos]
    together = predictor.predict(tensors)
    assert together.shape == (len(photos), 3)
    assert torch.allclose(together.sum(dim=1), torch.ones(len(photos)))
    for row, tensor in zip(together, tensors, strict=True):
        assert torch.allclose(predictor.predict([tensor])[0], row, atol=1e-5)
    assert len({tuple(row.tolist()) for row in together}) == len(photos)


def test_half_precision_is_bfloat16_on_a_cpu(exported: ModelFolders, photos: list[Path]) -> None:
    assert dtype_name("half", "cpu") == "bfloat16"
    assert dtype_name("half", "cuda:0") == "float16"
    assert dtype_name("full", "cuda") == "float32"
    half, full = (Predictor(exported, "cpu", Classifier(precision=p)) for p in ("half", "full"))
    assert next(half.model.parameters()).dtype == torch.bfloat16
    tensor = full.preprocess(photos[0].read_bytes())
    assert half.predict([tensor]).dtype == torch.float32
    assert torch.allclose(half.predict([tensor]), full.predict([tensor]), atol=0.1)


def test_a_predictor_preprocesses_as_its_settings_say(exported: ModelFolders, photos: list[Path]) -> None:
    content = photos[0].read_bytes()
    timm = Predictor(exported, "cpu", Classifier(preprocess="timm"))
    fast = Predictor(exported, "cpu", Classifier(preprocess="torchvision"))
    assert isinstance(timm.decode(content), Image.Image)
    assert isinstance(fast.decode(content), torch.Tensor)
    images = [[own.preprocess(content)] for own in (timm, fast)]
    assert torch.allclose(timm.predict(images[0]), fast.predict(images[1]), atol=0.02)


def test_torch_uses_the_threads_of_the_settings(exported: ModelFolders) -> None:
    before = torch.get_num_threads()
    try:
        Predictor(exported, "cpu", InferenceSettings(), threads=1)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_a_model_that_timm_lacks_is_one_line() -> None:
    with pytest.raises(ModelError, match="timm cannot build no_such_model at 96 px") as caught:
        timm_model("no_such_model", 2, 96)
    assert "\n" not in str(caught.value)


def test_loading_and_running_a_model_reads_no_pickle(exported: ModelFolders, photos: list[Path]) -> None:
    """Python tells its audit hooks of each name that a pickle looks up, from whatever file."""
    program = f"""
import sys
from pathlib import Path
from litmeter.classifier.model.card import CARD_NAME, WEIGHTS_NAME
from litmeter.paths import ModelFolders
from litmeter.classifier.model.predictor import Predictor
from litmeter.classifier.model.settings import InferenceSettings
import litmeter.classifier.model.model

def refuse(event, arguments):
    if event == "pickle.find_class":
        raise RuntimeError(f"a pickle asks for {{arguments}}")

sys.addaudithook(refuse)
folders = ModelFolders(Path({str(exported.exported)!r}), Path({str(exported.compiled)!r}))
classifier = Predictor(folders, "cpu", InferenceSettings(preprocess="torchvision"))
print(classifier.predict([classifier.preprocess(Path({str(photos[0])!r}).read_bytes())]).shape)
import pickle
pickle.loads(pickle.dumps(Path))
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert ran.stdout == "torch.Size([1, 3])\n"
    assert ran.stderr.endswith(f"RuntimeError: a pickle asks for ({Path.__module__!r}, 'Path')\n")
