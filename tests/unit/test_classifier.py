"""Batches with bad items, without memory, and with failures of the model."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from litmeter.classifier.server.responder import ClassifierResponder, PredictRequest
from litmeter.direct.messages import Reply, Request
from litmeter.kinds.classifier import Classifier
from litmeter.paths import ModelFolders


@pytest.fixture
def classifier(exported: ModelFolders) -> ClassifierResponder:
    classifier = ClassifierResponder(exported, Classifier(max_batch_size=8))
    classifier.setup("cpu")
    return classifier


@pytest.fixture
def files(photos: list[Path]) -> list[bytes]:
    return [path.read_bytes() for path in photos[:7]]


def answers_to(classifier: ClassifierResponder, files: list[bytes]) -> list[Reply]:
    requests = [Request(number, b"image/jpeg", 0.0, file) for number, file in enumerate(files, start=1)]
    return [*classifier.answer(requests).values()]


def fail_above(classifier: ClassifierResponder, most: int, error: Exception) -> list[int]:
    """Have the model raise ``error`` for batches above ``most``; return the sizes that it gets."""
    predictor: Any = classifier.predictor
    model, sizes = predictor.model, []

    def limited(batch: torch.Tensor) -> torch.Tensor:
        sizes.append(len(batch))
        if len(batch) > most:
            raise error
        answers: torch.Tensor = model(batch)
        return answers

    predictor.model = limited
    return sizes


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("CUDA driver error: out of memory"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    ],
)
def test_a_batch_without_memory_is_answered_in_halves(
    error: Exception, classifier: ClassifierResponder, files: list[bytes]
) -> None:
    expected = [json.loads(answer.body)["probability"] for answer in answers_to(classifier, files)]
    sizes = fail_above(classifier, 2, error)
    answers = answers_to(classifier, files)
    assert sizes == [7, 3, 1, 2, 4, 2, 2]
    assert [answer.status for answer in answers] == [200] * 7
    got = [json.loads(answer.body)["probability"] for answer in answers]
    assert got == pytest.approx(expected, abs=1e-5)


def test_what_the_model_fails_with_decides_what_is_answered(
    classifier: ClassifierResponder, files: list[bytes]
) -> None:
    with pytest.raises(RuntimeError) as torchs_own:
        torch.empty(2**50, dtype=torch.uint8)
    for error, status, tried in (
        (torchs_own.value, 503, [2, 1, 1]),
        (RuntimeError("shapes do not match"), 500, [2]),  # not tried again
    ):
        sizes = fail_above(classifier, 0, error)
        assert [answer.status for answer in answers_to(classifier, files[:2])] == [status] * 2
        assert sizes == tried
    # A GPU's error that stays ends the worker, in the loop of either transport: those catch Exception.
    fail_above(classifier, 0, torch.AcceleratorError("CUDA error: an illegal memory access was encountered"))
    with pytest.raises(SystemExit, match="GPU context is broken"):
        answers_to(classifier, files[:1])


@pytest.mark.parametrize(("error", "status"), [(KeyError("surprise"), 500), (MemoryError(), 503)])
def test_an_item_that_fails_unexpectedly_is_refused_alone(
    error: Exception,
    status: int,
    classifier: ClassifierResponder,
    files: list[bytes],
    caplog: pytest.LogCaptureFixture,
) -> None:
    predictor: Any = classifier.predictor
    transform, bad_image = predictor.transform, predictor.decode(files[1])

    def surprising(image: Any) -> Any:
        if image == bad_image:
            raise error
        return transform(image)

    predictor.transform = surprising
    assert [answer.status for answer in answers_to(classifier, files[:3])] == [200, status, 200]
    assert ("could not be decoded" in caplog.text) == (status == 500)
    # LitServe's loops go the same way.
    item = classifier.decode_json(PredictRequest(image=base64.b64encode(files[1]).decode()))
    assert item.image.status == status


WORKER_OF_A_COMPILED_MODEL = """
import sys
from litmeter.classifier.server.responder import ClassifierResponder
from litmeter.direct.worker import run_worker
assert "torch" not in sys.modules
from litmeter.classifier.model.predictor import Predictor
import litmeter.classifier.model.preprocess
print({"fastapi", "litserve", "starlette", "uvicorn", "timm", "torchvision"} & set(sys.modules))
"""


def test_a_worker_imports_what_it_needs_alone() -> None:
    """The packages that it can do without take three seconds and a hundred megabytes."""
    command = [sys.executable, "-c", WORKER_OF_A_COMPILED_MODEL]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout == "set()\n"
