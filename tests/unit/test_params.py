"""params.yaml: what is accepted, what a mistake is answered with, and how `-S` changes it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from dvc.utils.hydra import apply_overrides

from litmeter.errors import ParamsError
from litmeter.kinds.classifier import Classifier
from litmeter.params import load_params
from litmeter.settings import PARAMS_FILE
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
        ("e1_baseline", Classifier()),
        ("e2_batching", Classifier(max_batch_size=4)),
        ("candidate", params.serve),
    ]


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        (
            {"serve.precison": "half"},
            ["serve.precison", "did you mean precision?", "precision, preprocess"],
        ),
        ({"serve.precision": "hlaf"}, ["serve.precision", "'hlaf'", "'full', 'half', 'int8' or 'auto'"]),
        (
            {"serve.precision": "int8", "serve.compiled": False},
            ["serve.precision ('int8'): allowed without compiled: full or half"],
        ),
        (
            {"serve.precision": "int8", "compile.int8_photos": 0},
            ["serve.precision: got 'int8'", "unless compile.int8_photos is above 0"],
        ),
        (
            {"serve.precision": "int8", "compile.batch_sizes": [2, 4]},
            ["serve.precision: got 'int8'", "compile.batch_sizes has 1"],
        ),
        ({"serve.max_batch_size": 0}, ["serve.max_batch_size", "got 0", "greater than or equal to 1"]),
        ({"serve.max_batch_size": True}, ["serve.max_batch_size", "got True", "integer"]),
        (
            {"experiments.e1_baseline.wokers": 2},
            ["experiments.e1_baseline.wokers", "unknown key"],
        ),
        ({"experiments.Bad-Name": {}}, ["experiments.Bad-Name", "pattern"]),
        ({"experiments.candidate": {}}, ["candidate", "belongs to the serve section"]),
        ({"experiments": {}}, ["experiments", "at least 1"]),
        ({"serve.threads_per_worker": 2}, ["serve", "threads_per_worker (2)", "allowed with compiled: 1"]),
        ({"serve.drain_s": float("inf")}, ["serve.drain_s", "finite"]),
        ({"serve.preprocess": "timm"}, ["serve.preprocess ('timm'): allowed with compiled: 'torchvision'"]),
        ({"load.users": []}, ["load.users: got []; allowed: at least 1 item"]),
        ({"load.users": [1, "8"]}, ["load.users.1", "'8'"]),
        ({"load.users": [4, 4]}, ["load", "twice"]),
        ({"comparison.users": [8]}, ["comparison.users: got [8]", "integer"]),
        ({"load.min_s": 99.0}, ["load", "min_s (99.0) is above max_s"]),
        ({"model.name": KeyError}, ["model: got none of name, factory, onnx; allowed: one of these"]),
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


@pytest.mark.parametrize("text", ["", "- 1\n- 2\n", "a: ["])
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(ParamsError, match=r"params\.yaml"):
        load_params(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match="No such file"):
        load_params(tmp_path / "params.yaml")


def test_auto_stands_for_half_where_that_is_native(tmp_path: Path) -> None:
    experiments = {"e1_baseline": {"precision": "half"}, "e2_batching": {"precision": "auto"}}
    changes = {"serve.precision": "auto", "experiments": experiments}
    params = load_params(written(tmp_path, **changes))
    for native, precision in ((True, "half"), (False, "full")):
        found = params.on(lambda native=native: native)
        assert found.serve == params.serve.model_copy(update={"precision": precision})
        assert [one.precision for one in found.experiments.values()] == ["half", precision]


def test_an_unknown_configuration_names_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=r"no experiment 'e9' .* e1_baseline, e2_batching, candidate"):
        load_params(written(tmp_path)).configuration("e9")


PARAMS = ROOT / "params.yaml"


def leaves(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Every value by its dotted key."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            found.update(leaves(value, f"{prefix}{key}."))
        else:
            found[f"{prefix}{key}"] = value
    return found


def read(path: Path) -> dict[str, Any]:
    return leaves(yaml.load(path.read_text(), yaml.CSafeLoader))


BEFORE = read(PARAMS)


def as_override(value: Any) -> str:
    """What stands behind the ``=`` of ``-S``; JSON's true, false and null are Hydra's, too."""
    if isinstance(value, list):
        return f"[{','.join(map(as_override, value))}]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


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


def changed_lines(before: str, after: str) -> list[tuple[str, str]]:
    """Lines as they were, and as they are."""
    pairs = zip(before.splitlines(), after.splitlines(), strict=True)
    return [(old, new) for old, new in pairs if old != new]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copy(PARAMS, tmp_path / "params.yaml"))


def test_a_value_set_to_what_it_is_changes_nothing(copy: Path) -> None:
    apply_overrides(copy, [f"{key}={as_override(value)}" for key, value in BEFORE.items()])
    assert copy.read_text() == PARAMS.read_text()


def test_overrides_change_values_and_nothing_else_and_are_reversible(copy: Path) -> None:
    changed = {key: other(value) for key, value in BEFORE.items()}
    apply_overrides(copy, [f"{key}={as_override(value)}" for key, value in changed.items()])
    assert read(copy) == changed
    values = sum(len(value) if isinstance(value, list) else 1 for value in BEFORE.values())
    lines = changed_lines(PARAMS.read_text(), copy.read_text())
    assert len(lines) == values
    assert all(old.partition("#")[1:] == new.partition("#")[1:] for old, new in lines)
    apply_overrides(copy, [f"{key}={as_override(value)}" for key, value in BEFORE.items()])
    assert copy.read_text() == PARAMS.read_text()


def test_a_small_number_is_read_as_dvc_writes_it(copy: Path) -> None:
    apply_overrides(copy, ["train.learning_rate=1e-5"])
    assert "1e-05" in copy.read_text()
    assert load_params(copy).train.learning_rate == 0.00001


@pytest.mark.parametrize("value", [[], [1, 2, 4, 8, 16, 32]], ids=str)
def test_a_list_may_have_any_length_for_a_while(value: list[int], copy: Path) -> None:
    lists = {key: before for key, before in BEFORE.items() if isinstance(before, list)}
    apply_overrides(copy, [f"{key}={as_override(value)}" for key in lists])
    assert read(copy) == BEFORE | dict.fromkeys(lists, value)
    comments = [line for line in PARAMS.read_text().splitlines() if "#" in line]
    assert [line for line in copy.read_text().splitlines() if "#" in line] == comments
    apply_overrides(copy, [f"{key}={as_override(before)}" for key, before in lists.items()])
    assert copy.read_text() == PARAMS.read_text()
