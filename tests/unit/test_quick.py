"""What `litmeter quick` makes of a project."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from litmeter.cli.quick import shorten
from litmeter.params import Params, load_params
from litmeter.stages.order import planned
from tests.support.project import ROOT


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """Of a project without results, in the working directory."""
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    return load_params()


def test_a_quick_run_trains_compiles_and_compares_less_and_does_nothing_else(params: Params) -> None:
    shorten(Path())
    quick = load_params()
    assert quick.train.epochs < params.train.epochs
    assert set(quick.compile.batch_sizes) == {1, max(params.compile.batch_sizes)}
    assert quick.comparison.seconds < params.comparison.seconds
    assert quick.configurations() == params.configurations()
    names = [stage.split()[0] for stage in planned(quick)]
    assert names == ["machine", "data", "train", "export", "compile", "packages", "comparison"]


def test_a_quick_run_of_a_model_as_it_is_compiles_less(params: Params) -> None:
    path = Path("params.yaml")
    content = yaml.safe_load(path.read_text()) | {"train": None}
    del content["serve"]
    path.write_text(yaml.safe_dump(content))
    shorten(Path())
    assert len(yaml.safe_load(path.read_text())["compile"]["batch_sizes"]) < len(params.compile.batch_sizes)
