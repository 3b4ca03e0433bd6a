"""`litmeter tune --apply`: the winner in params.yaml, and nothing else changed there."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from litmeter.classifier.model.card import read_card
from litmeter.cli.tune import apply_winner
from litmeter.errors import ParamsError, ReportError
from litmeter.params import load_params
from litmeter.paths import MACHINE, MODEL, TUNE_METRICS, ModelFolders
from litmeter.report.snapshot import OUTDATED
from litmeter.system.files import write_json
from litmeter.system.machine import recorded_machine
from tests.support.project import ROOT
from tests.support.search import METRICS

WINNER: dict[str, Any] = {
    "precision": "int8",
    "compiled": True,
    "batch_timeout_s": 0.002,
    "max_batch_size": 8,
}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exported: ModelFolders) -> Path:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(exported.exported, MODEL.exported)
    MACHINE.parent.mkdir()
    write_json(MACHINE, {"id": "here"})
    return tmp_path


def write_winner(machine: str = "here", **winner: Any) -> None:
    weights = read_card(MODEL.exported).weights_sha256
    found = recorded_machine() | {"machine": machine, "weights_sha256": weights, "winner": winner}
    write_json(TUNE_METRICS, METRICS.model_copy(update=found).model_dump(mode="json"))


def test_the_winner_is_written_and_comments_stay(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (project / "params.yaml").read_text().splitlines()
    write_winner(**WINNER)
    apply_winner()
    after = (project / "params.yaml").read_text().splitlines()
    serve = load_params().serve
    assert {key: getattr(serve, key) for key in WINNER} == WINNER
    changed = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
    assert len(changed) == 3  # compiled is the same
    assert all(old.partition("#")[2] == new.partition("#")[2] for old, new in changed)
    said = capsys.readouterr().out
    assert "precision: full -> int8" in said
    assert OUTDATED not in said
    write_json(MACHINE, {"id": "here", "anyio": "99.0"})
    apply_winner()
    said = " ".join(capsys.readouterr().out.split())
    assert "has the winner already" in said
    assert f"{OUTDATED}: {TUNE_METRICS}" in said


def test_a_key_that_params_yaml_leaves_out_is_added(project: Path) -> None:
    content = yaml.safe_load((project / "params.yaml").read_text())
    del content["serve"]["threads_per_worker"], content["serve"]["keep_freed_memory"]
    (project / "params.yaml").write_text(yaml.safe_dump(content))
    write_winner(threads_per_worker=1, keep_freed_memory=True)
    apply_winner()
    assert load_params().serve.threads_per_worker == 1
    assert load_params().serve.keep_freed_memory is True


@pytest.mark.parametrize(
    "content", [None, {}, METRICS.model_copy(update={"winner": {"pace": 1}}).model_dump(mode="json")]
)
def test_without_a_winner_nothing_is_written(project: Path, content: dict[str, Any] | None) -> None:
    if content is not None:
        write_json(TUNE_METRICS, content)
    with pytest.raises(ReportError, match="`make tune` makes it"):
        apply_winner()
    assert (project / "params.yaml").read_text() == (ROOT / "params.yaml").read_text()


def test_another_machines_winner_is_not_written(project: Path) -> None:
    write_winner("there", precision="half")
    with pytest.raises(ReportError, match="found on another machine or for another model; run `make tune`"):
        apply_winner()
    assert (project / "params.yaml").read_text() == (ROOT / "params.yaml").read_text()


def test_a_winner_that_params_yaml_does_not_allow_leaves_it_as_it_was(project: Path) -> None:
    path = project / "params.yaml"
    path.write_text(path.read_text().replace("int8_photos: 100", "int8_photos: 0  "))
    before = path.read_text()
    write_winner(precision="int8")
    with pytest.raises(ParamsError, match=r"serve.precision: got 'int8'.* compile.int8_photos"):
        apply_winner()
    assert path.read_text() == before
