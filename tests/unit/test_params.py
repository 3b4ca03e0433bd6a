"""params.yaml: what is accepted, and what a mistake is answered with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from litmeter.errors import ParamsError
from litmeter.params import PARAMS_FILE, ServeSettings, load_params
from tests.support.project import ROOT


def written(tmp_path: Path, **changes: Any) -> Path:
    """params.yaml of the project with two experiments, and keys, given as a dotted path, changed."""
    content = yaml.safe_load((ROOT / PARAMS_FILE).read_text())
    content["experiments"] = {"e1_baseline": {}, "e2_batching": {"max_batch_size": 4}}
    content["comparison"]["reference"] = "e1_baseline"
    content["objective"]["configurations"] = ["candidate"]
    for path, value in changes.items():
        *parents, last = path.split(".")
        section = content
        for name in parents:
            section = section[name]
        if value is KeyError:
            del section[last]
        else:
            section[last] = value
    target = tmp_path / "params.yaml"
    target.write_text(yaml.safe_dump(content, sort_keys=False))
    return target


def test_configurations_are_the_experiments_and_then_the_candidate(tmp_path: Path) -> None:
    params = load_params(written(tmp_path))
    assert list(params.configurations().items()) == [
        ("e1_baseline", ServeSettings()),
        ("e2_batching", ServeSettings(max_batch_size=4)),
        ("candidate", params.serve),
    ]


def test_an_absent_key_is_litserves_default() -> None:
    assert ServeSettings() == ServeSettings(
        precision="full", max_batch_size=1, batch_timeout_s=0.0, workers_per_device=1
    )


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"serve.precison": "half"}, ["serve.precison", "unknown key", "precision, max_batch_size"]),
        ({"serve.precision": "hlaf"}, ["serve.precision", "'hlaf'", "'full', 'half' or 'int8'"]),
        (
            {"serve.precision": "int8", "serve.compiled": False},
            ["serve: precision ('int8'): allowed without compiled: full or half"],
        ),
        (
            {"serve.precision": "int8", "compile.int8_photos": 0},
            ["serve.precision: got 'int8'", "unless compile.int8_photos is above 0"],
        ),
        (
            {"serve.precision": "int8", "compile.batch_sizes": [2, 4]},
            ["serve.precision: got 'int8'", "compile.batch_sizes has 1"],
        ),
        ({"compile.int8_photos": 501}, ["compile.int8_photos", "got 501", "less than or equal to 500"]),
        ({"serve.max_batch_size": 0}, ["serve.max_batch_size", "got 0", "greater than or equal to 1"]),
        ({"serve.max_batch_size": "8"}, ["serve.max_batch_size", "got '8'", "integer"]),
        ({"serve.max_batch_size": True}, ["serve.max_batch_size", "got True", "integer"]),
        ({"serve.batch_timeout_s": -1}, ["serve.batch_timeout_s", "got -1"]),
        ({"experiments.e1_baseline.wokers": 2}, ["experiments.e1_baseline.wokers", "unknown key"]),
        ({"experiments.e2_batching.precision": 16}, ["experiments.e2_batching.precision", "got 16"]),
        ({"experiments.Bad-Name": {}}, ["experiments.Bad-Name", "pattern"]),
        ({"experiments.candidate": {}}, ["candidate", "belongs to the serve section"]),
        ({"experiments": {}}, ["experiments", "at least 1"]),
        ({"serve.threads_per_worker": 2}, ["serve", "threads_per_worker (2)", "allowed with compiled: 1"]),
        ({"serve.max_queue": 0}, ["serve.max_queue", "got 0", "greater than or equal to 1"]),
        ({"serve.drain_s": float("inf")}, ["serve.drain_s", "finite"]),
        ({"serve.preprocess": "timm"}, ["serve: preprocess ('timm'): allowed with compiled: 'torchvision'"]),
        ({"compile.batch_sizes": [0]}, ["compile.batch_sizes.0", "got 0"]),
        ({"load.users": []}, ["load.users: got []; allowed: at least 1 item"]),
        ({"load.users": [1, "8"]}, ["load.users.1", "'8'"]),
        ({"load.users": [4, 4]}, ["load", "twice"]),
        ({"load.min_s": 99.0}, ["load", "min_s (99.0) is above max_s"]),
        ({"load.timeout_s": float("inf")}, ["load.timeout_s", "inf"]),
        ({"data.task": "colour"}, ["data.task", "'colour'", "'species' or 'breed'"]),
        ({"data.val_fraction": 1.0}, ["data.val_fraction", "less than 1"]),
        ({"device": "tpu"}, ["device", "'tpu'", "'auto', 'cpu' or 'cuda'"]),
        ({"model.name": KeyError}, ["model.name", "missing"]),
        ({"train.epochs": 1.5}, ["train.epochs", "got 1.5"]),
        ({"bananas": 1}, ["bananas", "unknown key", "device, data"]),
    ],
)
def test_a_mistake_is_one_line_that_names_the_key(
    tmp_path: Path, changes: dict[str, Any], parts: list[str]
) -> None:
    with pytest.raises(ParamsError) as caught:
        load_params(written(tmp_path, **changes))
    message = str(caught.value)
    assert "\n" not in message
    assert caught.value.exit_code == 2
    for part in parts:
        assert part in message


@pytest.mark.parametrize("text", ["", "- 1\n- 2\n", "a: [", "\tb: 1"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(ParamsError, match=r"params\.yaml"):
        load_params(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match="No such file"):
        load_params(tmp_path / "params.yaml")


def test_an_unknown_configuration_names_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=r"no experiment 'e9' .* e1_baseline, e2_batching, candidate"):
        load_params(written(tmp_path)).configuration("e9")
