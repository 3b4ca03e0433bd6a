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

OUT_OF_MEMORY = (
    torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("CUDA driver error: out of memory"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
)


@pytest.fixture
def classifier(exported: ModelFolders) -> ClassifierResponder:
    classifier = ClassifierResponder(exported, Classifier(max_batch_size=8))
    classifier.setup("cpu")
    return classifier


def answers_to(classifier: ClassifierResponder, files: list[bytes]) -> list[Reply]:
    requests = [Request(number, b"image/jpeg", 0.0, file) for number, file in enumerate(files, start=1)]
    return [*classifier.answer(requests).values()]


def fail_above(classifier: ClassifierResponder, most: int, error: Exception) -> list[int]:
    """Have the model raise ``error`` for a larger batch than ``most``; the sizes that it is asked for."""
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


@pytest.mark.parametrize("error", OUT_OF_MEMORY)
def test_a_batch_without_memory_is_answered_in_halves(
    error: Exception, classifier: ClassifierResponder, photos: list[Path]
) -> None:
    files = [path.read_bytes() for path in photos[:7]]
    expected = [json.loads(answer.body)["probability"] for answer in answers_to(classifier, files)]
    sizes = fail_above(classifier, 2, error)
    answers = answers_to(classifier, files)
    assert sizes == [7, 3, 1, 2, 4, 2, 2]
    assert [answer.status for answer in answers] == [200] * 7
    got = [json.loads(answer.body)["probability"] for answer in answers]
    assert got == pytest.approx(expected, abs=1e-5)


def test_one_request_without_memory_gets_503(classifier: ClassifierResponder, photos: list[Path]) -> None:
    with pytest.raises(RuntimeError) as caught:  # torch's own
        torch.empty(2**50, dtype=torch.uint8)
    fail_above(classifier, 0, caught.value)
    answers = answers_to(classifier, [path.read_bytes() for path in photos[:2]])
    assert [answer.status for answer in answers] == [503, 503]
    assert b"no memory" in answers[0].body


def test_an_error_of_the_gpu_that_stays_ends_the_worker(
    classifier: ClassifierResponder, photos: list[Path]
) -> None:
    """In either transport's loop, which catch what is an Exception."""
    error = torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
    sizes = fail_above(classifier, 0, error)
    with pytest.raises(SystemExit, match="GPU context is broken"):
        answers_to(classifier, [photos[0].read_bytes()])
    assert sizes == [1]


def test_another_failure_of_the_model_is_not_retried(
    classifier: ClassifierResponder, photos: list[Path]
) -> None:
    sizes = fail_above(classifier, 0, RuntimeError("shapes do not match"))
    answers = answers_to(classifier, [path.read_bytes() for path in photos[:2]])
    assert [answer.status for answer in answers] == [500, 500]
    assert sizes == [2]


@pytest.mark.parametrize(("error", "status"), [(KeyError("surprise"), 500), (MemoryError(), 503)])
def test_an_item_that_fails_unexpectedly_is_refused_alone(
    error: Exception,
    status: int,
    classifier: ClassifierResponder,
    photos: list[Path],
    caplog: pytest.LogCaptureFixture,
) -> None:
    predictor: Any = classifier.predictor
    transform, bad = predictor.transform, photos[1].read_bytes()
    bad_image = predictor.decode(bad)

    def surprising(image: Any) -> Any:
        if image == bad_image:
            raise error
        return transform(image)

    predictor.transform = surprising
    answers = answers_to(classifier, [path.read_bytes() for path in photos[:3]])
    assert [answer.status for answer in answers] == [200, status, 200]
    assert ("could not be decoded" in caplog.text) == (status == 500)
    # LitServe's own loops go the same way.
    item = classifier.decode_json(PredictRequest(image=base64.b64encode(bad).decode()))
    assert isinstance(item.image, Reply)
    assert item.image.status == status


NOT_NEEDED = ("fastapi", "litserve", "starlette", "uvicorn", "timm", "torchvision")
WORKER_OF_A_COMPILED_MODEL = f"""
import sys
from litmeter.classifier.server.responder import ClassifierResponder
from litmeter.direct.worker import run_worker
assert "torch" not in sys.modules
from litmeter.classifier.model.predictor import Predictor
import litmeter.classifier.model.preprocess
print([name for name in {NOT_NEEDED} if name in sys.modules])
"""


def test_a_worker_imports_what_it_needs_alone() -> None:
    """The packages that it can do without take three seconds and a hundred megabytes."""
    command = [sys.executable, "-c", WORKER_OF_A_COMPILED_MODEL]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout == "[]\n"
