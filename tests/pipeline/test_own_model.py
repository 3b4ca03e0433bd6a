"""A module of one's own, and an ONNX file, through the pipeline: as they are, fitted, and after a change."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from litmeter.model.card import GRAPH_NAMES, WEIGHTS_NAME, read_card
from litmeter.paths import CEILINGS, COMPILED_TABLE, MODEL, PRECISIONS_TABLE, TRAIN_METRICS, BenchmarkPaths
from litmeter.system.files import read_json
from tests.pipeline.conftest import Clone
from tests.support.own_models import PREPROCESS, SIZE, small_net, write_net, write_onnx
from tests.support.tables import read_csv

WITHOUT_NAME = {"name": None, "pretrained": None, "image_size": None, "preprocess": PREPROCESS}
INT8 = {"precision": "int8", "compiled": True, "preprocess": "torchvision"}


@pytest.fixture
def project(ran: Clone) -> Iterator[Clone]:
    ran.change(
        {"compile": {"batch_sizes": [1], "int8_photos": 4}, "experiments": {"e1_baseline": {}, "int8": INT8}}
    )
    yield ran
    ran.restore()


def run(project: Clone, changes: Mapping[str, Any], *target: str) -> list[str]:
    """The stages that run after changes of params.yaml."""
    project.change(changes)
    return project.stages_run(project.dvc("repro", *target).stdout)


def check_results(project: Clone, kind: str, files: set[str]) -> None:
    """Of a model that is served, with its bounds, in int8, too."""
    card = read_card(project.path / MODEL.exported)
    assert (card.kind, card.classes, card.image_size) == (kind, ["cat", "dog"], SIZE)
    assert files < {path.name for path in (project.path / MODEL.exported).iterdir()}
    for name in ("e1_baseline", "int8", "candidate"):
        metrics = read_json(project.path / BenchmarkPaths(name).metrics)
        assert metrics["throughput_rps"] > 0
        assert (metrics["failed"], metrics["mismatched"]) == (0, 0)
        assert metrics["agreement"] > 0.9
        assert read_json(project.path / BenchmarkPaths(name).comparison)["rate_rps"] > 0
    assert {row["precision"] for row in read_csv(project.path / PRECISIONS_TABLE)} >= {"full", "int8"}
    assert {row["precision"] for row in read_csv(project.path / COMPILED_TABLE)} >= {"full", "int8"}
    ceilings = read_json(project.path / CEILINGS)
    # Two convolutions and the last layer.
    macs = 8 * 27 * (SIZE // 2) ** 2 + 8 * 25 * (SIZE // 2) ** 2 + 2 * 8
    assert ceilings["macs"] == pytest.approx(macs, rel=0.15)  # ptflops counts what normalises, too
    assert ceilings["roofline_full_rps"] > 0


def test_a_module_is_fitted_or_served_as_it_is_and_its_code_is_watched(project: Clone) -> None:
    write_net(project.path)
    net = {**WITHOUT_NAME, "factory": "net:make", "classes": ["cat", "dog"]}
    assert run(project, {"model": net, "train": {"frozen_share": 0.0}}, "export") == [
        "machine",
        "train",
        "export",
    ]
    assert read_json(project.path / TRAIN_METRICS)["best_epoch"] == 1
    fitted = read_card(project.path / MODEL.exported).weights_sha256

    assert run(project, {"train": None})[:3] == ["machine", "train", "export"]
    assert read_json(project.path / TRAIN_METRICS)["best_epoch"] == 0
    assert read_card(project.path / MODEL.exported).weights_sha256 != fitted
    check_results(project, "factory", {WEIGHTS_NAME})

    (project.path / "net.py").touch()
    assert run(project, {}) == ["machine"]
    with (project.path / "net.py").open("a") as code:
        code.write("# the same network by other code\n")
    assert run(project, {}, "compile") == ["machine", "train", "export", "compile"]


def test_an_onnx_file_is_served_compiled_and_another_one_is_noticed(project: Clone) -> None:
    write_onnx(file := project.path / "net.onnx", small_net(), (3, SIZE, SIZE))
    compiled = {"compiled": True, "preprocess": "torchvision"}
    changes = {"model": {**WITHOUT_NAME, "onnx": "net.onnx"}, "train": None}
    changes["experiments"] = {"e1_baseline": compiled, "int8": INT8}
    assert run(project, changes)[:3] == ["machine", "train", "export"]
    check_results(project, "onnx", {*GRAPH_NAMES})

    file.touch()
    assert run(project, {}) == ["machine"]
    write_onnx(file, small_net(classes=3), (3, SIZE, SIZE))
    done = project.dvc("repro", check=False)
    assert done.returncode == 255
    [line] = [line for line in done.stderr.splitlines() if line.startswith("train: ")]
    assert "net.onnx answers (2, 3) to images (2, 3, 64, 64); allowed: (2, 2)" in line
    assert "Traceback" not in done.stdout + done.stderr
