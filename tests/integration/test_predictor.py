"""Preprocessed images in, probabilities out."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from litmeter.classifier.model.model import timm_model
from litmeter.classifier.model.precision import dtype_name
from litmeter.classifier.model.predictor import Predictor
from litmeter.classifier.model.settings import InferenceSettings
from litmeter.errors import ModelError
from litmeter.paths import ModelFolders


def test_answers_do_not_depend_on_batch_layout_or_preprocessing(
    exported: ModelFolders, photos: list[Path]
) -> None:
    contents, answers = [path.read_bytes() for path in photos], {}
    for preprocess in ("timm", "torchvision"):
        predictor = Predictor(exported, "cpu", InferenceSettings(preprocess=preprocess))
        images = [predictor.preprocess(content) for content in contents]
        answers[preprocess] = together = predictor.predict(images)
        assert together.shape == (len(photos), 3)
        assert torch.allclose(together.sum(dim=1), torch.ones(len(photos)))
        for row, image in zip(together, images, strict=True):
            assert torch.allclose(predictor.predict([image])[0], row, atol=1e-5)
        assert len({tuple(row.tolist()) for row in together}) == len(photos)
    assert torch.allclose(answers["timm"], answers["torchvision"], atol=0.02)
    batch = predictor.batch(images)
    assert batch.dtype == torch.uint8
    assert batch.is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(predictor.forward(batch), predictor.forward(batch.contiguous()), atol=1e-5)


def test_half_precision_is_bfloat16_on_a_cpu(exported: ModelFolders, photos: list[Path]) -> None:
    names = [dtype_name("half", "cpu"), dtype_name("half", "cuda:0"), dtype_name("full", "cuda")]
    assert names == ["bfloat16", "float16", "float32"]
    half, full = (
        Predictor(exported, "cpu", InferenceSettings(precision=precision)) for precision in ("half", "full")
    )
    assert next(half.model.parameters()).dtype == torch.bfloat16
    image = full.preprocess(photos[0].read_bytes())
    assert half.predict([image]).dtype == torch.float32
    assert torch.allclose(half.predict([image]), full.predict([image]), atol=0.1)


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


WITHOUT_PICKLE = """
import sys
from pathlib import Path
from litmeter.paths import ModelFolders
from litmeter.classifier.model.predictor import Predictor
from litmeter.classifier.model.settings import InferenceSettings
import litmeter.classifier.model.model

def refuse(event, arguments):
    if event == "pickle.find_class":
        raise RuntimeError(f"a pickle asks for {arguments}")

sys.addaudithook(refuse)
exported, compiled, photo = map(Path, sys.argv[1:])
predictor = Predictor(ModelFolders(exported, compiled), "cpu", InferenceSettings(preprocess="torchvision"))
print(predictor.predict([predictor.preprocess(photo.read_bytes())]).shape)
import pickle
pickle.loads(pickle.dumps(Path))
"""


def test_loading_and_running_a_model_reads_no_pickle(exported: ModelFolders, photos: list[Path]) -> None:
    """Python tells its audit hooks of each name that a pickle looks up, from whatever file."""
    given = [str(path) for path in (exported.exported, exported.compiled, photos[0])]
    command = [sys.executable, "-c", WITHOUT_PICKLE, *given]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.stdout == "torch.Size([1, 3])\n"
    assert ran.stderr.endswith(f"RuntimeError: a pickle asks for ({Path.__module__!r}, 'Path')\n")
