"""A module of one's own, and an ONNX file, through the pipeline: as they are, fitted, and after a change."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from litmeter.classifier.model.card import read_card
from litmeter.paths import CEILINGS, COMPILED_TABLE, MODEL, PRECISIONS_TABLE, TRAIN_METRICS, BenchmarkPaths
from litmeter.system.files import read_json
from tests.pipeline.conftest import TINY, Clone
from tests.support.own_models import PREPROCESS, SIZE, small_net, write_net, write_onnx
from tests.support.tables import read_csv

WITHOUT_NAME = {"name": None, "pretrained": None, "image_size": None, "preprocess": PREPROCESS}
COMPILED = {"precision": "full", "compiled": True, "preprocess": "torchvision"}


@pytest.fixture(scope="module")
def project(new_clone: Callable[[], Clone]) -> Clone:
    clone = new_clone()
    clone.keep_few_photos()
    clone.change({**TINY, "compile": {"batch_sizes": [1], "int8_photos": 4}})
    clone.commit("a small configuration")
    return clone


def run(project: Clone, changes: Mapping[str, Any], *targets: str) -> set[str]:
    """The stages that run after changes of params.yaml."""
    project.change(changes)
    return set(project.stages_run(project.dvc("repro", *targets).stdout))


def check_served(project: Clone, kind: str, *configurations: str) -> None:
    card = read_card(project.path / MODEL.exported)
    assert (card.kind, card.classes, card.image_size) == (kind, ["cat", "dog"], SIZE)
    for name in configurations:
        metrics = read_json(project.path / BenchmarkPaths(name).metrics)
        assert metrics["throughput_rps"] > 0
        assert (metrics["failed"], metrics["mismatched"]) == (0, 0)
        assert metrics["agreement"] > 0.9


def test_a_module_is_fitted_or_served_as_it_is_and_its_code_is_watched(project: Clone) -> None:
    write_net(project.path)
    net = {**WITHOUT_NAME, "factory": "net:make", "classes": ["cat", "dog"]}
    changes = {"model": net, "train": {"frozen_share": 0.0}}
    assert run(project, changes, "export") == {"machine", "data", "train", "export"}
    assert read_json(project.path / TRAIN_METRICS)["best_epoch"] == 1
    fitted = read_card(project.path / MODEL.exported).weights_sha256

    assert run(project, {"train": None}, "candidate") >= {"machine", "train", "export"}
    assert read_json(project.path / TRAIN_METRICS)["best_epoch"] == 0
    assert read_card(project.path / MODEL.exported).weights_sha256 != fitted
    check_served(project, "factory", "candidate")

    (project.path / "net.py").touch()
    assert run(project, {}, "export") == {"machine"}
    with (project.path / "net.py").open("a") as code:
        code.write("# the same network by other code\n")
    assert run(project, {}, "export") == {"machine", "train", "export"}


def test_an_onnx_file_is_served_compiled_and_another_one_is_noticed(project: Clone) -> None:
    write_onnx(file := project.path / "net.onnx", small_net(), (3, SIZE, SIZE))
    changes = {"model": {**WITHOUT_NAME, "factory": None, "onnx": "net.onnx"}, "train": None}
    changes |= {"experiments": {"e1_baseline": COMPILED}, "serve": {**COMPILED, "precision": "int8"}}
    assert run(project, changes) >= {"machine", "train", "export", "compile", "report"}
    check_served(project, "onnx", "e1_baseline", "candidate")
    for table in (PRECISIONS_TABLE, COMPILED_TABLE):
        assert {row["precision"] for row in read_csv(project.path / table)} >= {"full", "int8"}
    ceilings = read_json(project.path / CEILINGS)
    # Two convolutions and the last layer.
    assert ceilings["macs"] == 8 * 27 * (SIZE // 2) ** 2 + 8 * 25 * (SIZE // 2) ** 2 + 2 * 8
    assert ceilings["precisions"]["full"]["roofline_rps"] > 0

    file.touch()
    assert run(project, {}) == {"machine"}
    write_onnx(file, small_net(classes=3), (3, SIZE, SIZE))
    done = project.dvc("repro", check=False)
    assert done.returncode == 255
    [line] = [line for line in done.stderr.splitlines() if line.startswith("train: ")]
    assert "net.onnx answers (2, 3) to images (2, 3, 64, 64); allowed: (2, 2)" in line
    assert "git checkout" not in line  # params.yaml may be right
    assert "Traceback" not in done.stdout + done.stderr
