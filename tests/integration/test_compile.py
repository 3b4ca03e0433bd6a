"""The real compiler on a tiny model: what it makes answers as the model does."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from litmeter.classifier.model.answers import answers_of
from litmeter.classifier.model.compiled.build import compile_model, time_packages
from litmeter.classifier.model.compiled.manifest import Manifest, Package
from litmeter.classifier.model.compiled.model import load_package
from litmeter.classifier.model.predictor import Predictor
from litmeter.classifier.model.settings import InferenceSettings
from litmeter.cli.main import main
from litmeter.errors import LitmeterError
from litmeter.kinds.classifier import Classifier
from litmeter.kinds.registry import read as read_keys
from litmeter.paths import ModelFolders
from litmeter.system.machine import fingerprint
from tests.support.models import export_tiny
from tests.support.servers import make_project

SIZE, CALIBRATION = 2, 4


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, photos: list[Path]) -> tuple[ModelFolders, Manifest]:
    folders = export_tiny(tmp_path_factory.mktemp("models"), image_size=32)
    return folders, compile_model(folders, "cpu", (1, SIZE), photos[:CALIBRATION])


def test_int8_answers_nearly_as_the_model_and_its_calibration_is_recorded(
    built: tuple[ModelFolders, Manifest], photos: list[Path]
) -> None:
    folders, manifest = built
    one, two = (package for package in manifest.packages if package.precision == "int8")
    assert (one.batch_size, one.skipped_reason) == (1, None)  # nothing could run instead
    assert two.compiled_ms is not None
    assert manifest.calibration.photos == CALIBRATION
    full, int8 = Classifier(preprocess="torchvision"), {"precision": "int8", "compiled": True}
    eager = Predictor(folders, "cpu", full)
    compiled = Predictor(folders, "cpu", full.model_copy(update=int8))
    images = [eager.preprocess(path.read_bytes()) for path in photos[: 2 * SIZE + 1]]
    difference = (compiled.predict(images) - eager.predict(images)).abs()
    assert 0 < difference.max() < 0.2


def test_a_package_that_does_not_load_is_an_error_that_says_why(
    built: tuple[ModelFolders, Manifest], tmp_path: Path
) -> None:
    folders, _ = built
    (tmp_path / "full-2.package").write_bytes(b"no machine code")
    broken = Package(precision="full", batch_size=SIZE, file="full-2.package")
    with pytest.raises(LitmeterError, match=r"runs the compiled models died .*its log ends:"):
        time_packages(folders.exported, tmp_path, "cpu", [broken])


def test_processes_share_the_photos_and_answer_as_the_model(
    built: tuple[ModelFolders, Manifest], photos: list[Path]
) -> None:
    folders, _ = built
    own = {"preprocess": "torchvision", "compiled": True}
    both = [InferenceSettings.model_validate(own | {"precision": name}) for name in ("full", "int8")]
    photos = photos[: 2 * SIZE]
    for settings, found in zip(both, answers_of(folders, "cpu", both, photos), strict=True):
        predictor = Predictor(folders, "cpu", settings)
        for path, probabilities in zip(photos, found, strict=True):
            [expected] = predictor.predict([predictor.preprocess(path.read_bytes())])
            assert probabilities == pytest.approx(expected.numpy(), abs=1e-6)


def test_every_precision_is_compiled_or_it_says_why(built: tuple[ModelFolders, Manifest]) -> None:
    _, manifest = built
    assert [(one.precision, one.batch_size) for one in manifest.packages] == [
        (precision, size) for precision in ("full", "half", "int8") for size in (1, SIZE)
    ]
    for one in manifest.packages[:4]:
        if one.precision == "half" and not computes_bfloat16():
            assert "bfloat16" in one.skipped_reason
            continue
        slower = one.compiled_ms >= min(one.eager_ms, one.parts_ms or one.eager_ms)
        assert one.skipped_reason is None or slower


def computes_bfloat16() -> bool:
    return bool({"avx512_bf16", "amx_bf16", "bf16"} & set(fingerprint()["cpu_flags"]))


def test_a_package_takes_only_the_batch_size_of_its_compilation(
    built: tuple[ModelFolders, Manifest],
) -> None:
    """Its shapes are static: a graph that takes every size is slower."""
    folders, manifest = built
    path = folders.compiled / str(manifest.packages[1].file)
    run = load_package(path, torch.float32, torch.device("cpu"))
    batch = torch.zeros(SIZE, 3, 32, 32, dtype=torch.uint8)
    first = run(batch)
    kept = first.clone()
    run(batch + 255)
    assert torch.equal(first, kept)  # an answer is not written over by the next
    with pytest.raises(RuntimeError, match="shape"):
        run(torch.cat([batch, batch]))


def test_serve_says_that_batches_above_the_compiled_ones_are_split(
    built: tuple[ModelFolders, Manifest],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """On a port that is taken, so that nothing is served."""
    folders, manifest = built
    used = max(one.batch_size for one in manifest.packages[:2] if one.skipped_reason is None)
    monkeypatch.chdir(tmp_path)
    make_project(tmp_path, folders, compiled=True, precision="full", max_batch_size=4 * SIZE)
    shutil.copytree(folders.compiled, "models/compiled")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main(["serve", "--port", str(taken.getsockname()[1])]) == 2
    [line] = capsys.readouterr().out.splitlines()
    assert {str(used), str(4 * SIZE)} <= set(re.findall(r"\d+", line))


def test_nothing_is_reported_to_the_compilers_maker(tmp_path: Path) -> None:
    """OpenVINO and NNCF would, and leave an id of the user in the home folder."""
    command = [sys.executable, "-c", "import litmeter.classifier.model.compiled.package, nncf, openvino"]
    subprocess.run(command, env=os.environ | {"HOME": str(tmp_path)}, check=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("precision", "tolerance"), [("full", 1e-4), ("half", 0.1)])
def test_the_compiled_model_answers_as_the_model_at_every_size_on_any_threads(
    built: tuple[ModelFolders, Manifest], photos: list[Path], precision: str, tolerance: float, threads: int
) -> None:
    folders, _ = built
    settings = read_keys({"precision": precision, "preprocess": "torchvision"})
    eager = Predictor(folders, "cpu", settings, threads)
    compiled = Predictor(folders, "cpu", settings.model_copy(update={"compiled": True}), threads)
    assert not isinstance(compiled.model, torch.nn.Module)
    for number in (1, SIZE, SIZE + 1, 2 * SIZE):
        images = [eager.preprocess(path.read_bytes()) for path in photos[:number]]
        assert torch.allclose(compiled.predict(images), eager.predict(images), atol=tolerance)
