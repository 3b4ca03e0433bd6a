"""params.yaml: what is accepted, what a mistake is answered with, and how `-S` changes it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from dvc.utils.hydra import apply_overrides

from litmeter.errors import ParamsError
from litmeter.kinds.classifier import Classifier
from litmeter.kinds.configuration import Host
from litmeter.kinds.lit_api import LitApi
from litmeter.params import load_params
from litmeter.settings import PARAMS_FILE
from tests.support.project import ROOT

PARAMS = ROOT / PARAMS_FILE
ABSENT = object()


def written(tmp_path: Path, **changes: Any) -> Path:
    """params.yaml of the project with two experiments, and keys, given as a dotted path, changed."""
    content = yaml.safe_load(PARAMS.read_text())
    content["experiments"] = {"e1_baseline": {}, "e2_batching": {"max_batch_size": 4}}
    content["comparison"]["reference"] = "e1_baseline"
    content["objective"]["configurations"] = ["candidate"]
    for path, value in changes.items():
        *parents, last = path.split(".")
        section = content
        for name in parents:
            section = section[name]
        section[last] = value
        if value is ABSENT:
            del section[last]
    target = tmp_path / "params.yaml"
    target.write_text(yaml.safe_dump(content, sort_keys=False))
    return target


def test_configurations_are_the_experiments_and_then_the_candidate(tmp_path: Path) -> None:
    params = load_params(written(tmp_path))
    assert list(params.configurations().items()) == [
        ("e1_baseline", Classifier()),
        ("e2_batching", Classifier(max_batch_size=4)),
        ("candidate", params.serve),
    ]
    with pytest.raises(ParamsError, match=r"'e9' .* e1_baseline, e2_batching, candidate"):
        params.configuration("e9")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"bananas": 1}, "bananas: unknown key"),
        ({"serve.precison": "half"}, "serve.precison: unknown key, did you mean precision?"),
        ({"serve.precision": "hlaf"}, "serve.precision: got 'hlaf'; allowed: 'full', 'half', 'int8'"),
        ({"serve.precision": "int8", "serve.compiled": False}, "serve.precision ('int8')"),
        ({"serve.precision": "int8", "compile.int8_photos": 0}, "serve.precision: got 'int8'"),
        ({"serve.precision": "int8", "compile.batch_sizes": [2, 4]}, "serve.precision: got 'int8'"),
        ({"serve.max_batch_size": 0}, "serve.max_batch_size: got 0"),
        ({"serve.max_batch_size": True}, "serve.max_batch_size: got True"),
        ({"serve.workers_per_device": "all"}, "serve.workers_per_device: got 'all'; allowed: auto, or"),
        ({"serve.workers_per_device": 0}, "serve.workers_per_device: got 0; allowed: auto, or"),
        ({"serve.preprocess": "timm"}, "serve.preprocess ('timm')"),
        ({"serve.drain_s": float("inf")}, "serve.drain_s: got inf"),
        ({"experiments": {}}, "experiments: got {}"),
        ({"experiments.e1_baseline.wokers": 2}, "experiments.e1_baseline.wokers: unknown key"),
        ({"experiments.Bad-Name": {}}, "experiments.Bad-Name"),
        ({"experiments.candidate": {}}, "experiments.candidate: this name belongs to"),
        ({"load.users": []}, "load.users: got []"),
        ({"load.users": [1, "8"]}, "load.users.1: got '8'"),
        ({"load.users": [4, 4]}, "twice"),
        ({"load.min_s": 99.0}, "min_s (99.0) is above max_s"),
        ({"comparison.users": [8]}, "comparison.users: got [8]"),
        ({"costs": {"e3": {}}}, "costs: got 'e3'; allowed: e1_baseline, e2_batching, candidate"),
        ({"costs": {"candidate": {"flop": 1.0}}}, "costs.candidate.flop: unknown key, did you mean flops?"),
        ({"costs": 1}, "costs: got 1"),
        ({"model.name": ABSENT}, "model: got none of name, factory, onnx"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_key(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ParamsError) as caught:
        load_params(written(tmp_path, **changes))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("text", [None, "", "- 1\n- 2\n", "a: ["])
def test_a_file_that_is_no_mapping_or_missing_is_named(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "params.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ParamsError, match=r"params\.yaml"):
        load_params(path)


@pytest.mark.parametrize(("native", "precision"), [(True, "half"), (False, "full")])
def test_auto_stands_for_half_where_that_is_native(tmp_path: Path, native: bool, precision: str) -> None:
    experiments = {"e1_baseline": {"precision": "half"}, "e2_batching": {"precision": "auto"}}
    changes = {"serve.precision": "auto", "experiments": experiments}
    params = load_params(written(tmp_path, **changes))
    found = params.on(Host("cpu", 2), lambda: native)
    assert found.serve == params.serve.model_copy(update={"precision": precision, "workers_per_device": 2})
    assert [one.precision for one in found.experiments.values()] == ["half", precision]


@pytest.mark.parametrize(
    ("device", "cores", "threads", "workers"),
    [("cpu", 16, 1, 16), ("cpu", 16, 3, 5), ("cpu", 2, 4, 1), ("cpu", 16, None, 1), ("cuda", 16, 1, 1)],
)
def test_auto_stands_for_as_many_workers_as_have_a_core_for_each_thread(
    tmp_path: Path, device: str, cores: int, threads: int | None, workers: int
) -> None:
    own = {"workers_per_device": "auto", "threads_per_worker": threads}
    other = {"api": "server:MyAPI"} | own
    params = load_params(written(tmp_path, serve=own, experiments={"e1_baseline": other, "e2_batching": {}}))
    found = params.on(Host(device, cores), lambda: False).configurations()
    assert [one.workers for one in found.values()] == [workers, 1, workers]


@pytest.mark.usefixtures("one_cpu")
def test_more_threads_than_cores_are_said() -> None:
    assert LitApi(api="server:MyAPI", threads_per_worker=1).note("cpu") is None
    assert "threads_per_worker is 2" in str(LitApi(api="server:MyAPI", threads_per_worker=2).note("cpu"))


def leaves(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Every value by its dotted key."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found |= leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def read(path: Path) -> dict[str, Any]:
    return leaves(yaml.load(path.read_text(), yaml.CSafeLoader))


BEFORE = read(PARAMS)


def override(path: Path, values: dict[str, Any]) -> None:
    """Set values as ``-S`` does; JSON's true, false and null are Hydra's, too."""

    def text(value: Any) -> str:
        if isinstance(value, list):
            return f"[{','.join(map(text, value))}]"
        return {"None": "null", "True": "true", "False": "false"}.get(str(value), str(value))

    apply_overrides(path, [f"{key}={text(value)}" for key, value in values.items()])


def other(value: Any) -> Any:
    """A value of the same type that is no longer than the one in the file."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        text = str(value)
        return type(value)(text[:-1] + ("3" if text[-1] == "7" else "7"))
    if isinstance(value, list):
        return [other(one) for one in value]
    return "x" if value is None else str(value)[::-1]


def comments(path: Path) -> list[str]:
    return [line.partition("#")[2] for line in path.read_text().splitlines() if "#" in line]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copy(PARAMS, tmp_path / "params.yaml"))


@pytest.mark.parametrize(
    "change",
    [
        other,
        lambda value: [] if isinstance(value, list) else value,
        lambda value: [1, 2, 4, 8, 16, 32] if isinstance(value, list) else value,
    ],
    ids=["other values", "empty lists", "long lists"],
)
def test_overrides_change_values_and_nothing_else_and_are_reversible(
    copy: Path, change: Callable[[Any], Any]
) -> None:
    changed = {key: change(value) for key, value in BEFORE.items()}
    override(copy, changed)
    assert read(copy) == changed != BEFORE
    assert comments(copy) == comments(PARAMS)
    override(copy, BEFORE)
    assert copy.read_text() == PARAMS.read_text()


def test_a_small_number_is_read_as_dvc_writes_it(copy: Path) -> None:
    apply_overrides(copy, ["train.learning_rate=1e-5"])
    assert "1e-05" in copy.read_text()
    assert load_params(copy).train.learning_rate == 0.00001
