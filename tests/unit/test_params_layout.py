"""`dvc exp run -S key=value` changes a value in params.yaml, and not a letter besides."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from dvc.utils.hydra import apply_overrides

from litmeter.params import load_params

ROOT = Path(__file__).resolve().parents[2]
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


@pytest.mark.parametrize("value", [[], [1], [1, 2, 4, 8, 16, 32]], ids=str)
def test_a_list_may_have_any_length_for_a_while(value: list[int], copy: Path) -> None:
    lists = {key: before for key, before in BEFORE.items() if isinstance(before, list)}
    apply_overrides(copy, [f"{key}={as_override(value)}" for key in lists])
    assert read(copy) == BEFORE | dict.fromkeys(lists, value)
    comments = [line for line in PARAMS.read_text().splitlines() if "#" in line]
    assert [line for line in copy.read_text().splitlines() if "#" in line] == comments
    apply_overrides(copy, [f"{key}={as_override(before)}" for key, before in lists.items()])
    assert copy.read_text() == PARAMS.read_text()
