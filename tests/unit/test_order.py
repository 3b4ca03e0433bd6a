"""Where a run stands, and how long each stage took before."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from litmeter.params import Params, load_params
from litmeter.paths import SECONDS
from litmeter.stages.order import announcement, last_seconds, planned, record_seconds
from tests.support.project import ROOT


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """Of a project without results, in the working directory."""
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    return load_params()


def test_before_the_first_run_no_time_is_said(params: Params) -> None:
    assert announcement("train", params) == ("3/18", "stage 3 of 18 (train)")


def test_the_time_of_a_stage_and_of_all_from_it_is_that_of_their_last_run(params: Params) -> None:
    for stage in planned(params):
        record_seconds(stage, 60.0)
    record_seconds("train", 30.0)
    found = {stage: announcement(stage, params) for stage in ("train", "benchmark candidate", "report")}
    assert found == {
        "train": ("3/18", "stage 3 of 18 (train); last time it took 30 s, and all from here 16 min"),
        "benchmark candidate": (
            "16/18",
            "stage 16 of 18 (benchmark candidate); last time it took 60 s, and all from here 3 min",
        ),
        "report": ("18/18", "stage 18 of 18 (report); last time it took 60 s"),
    }


@pytest.mark.parametrize("content", ["{}", "", '{"train": 30.0}'])
def test_a_time_that_is_not_known_is_not_said(params: Params, content: str) -> None:
    SECONDS.parent.mkdir()
    SECONDS.write_text(content)
    found = announcement("train", params)
    assert found is not None
    assert ("took" in found[1]) == bool(last_seconds())
    assert "all from here" not in found[1]


@pytest.mark.parametrize("stage", ["capacity candidate", "tune", "benchmark unknown"])
def test_a_stage_that_stands_alone_says_nothing(stage: str, params: Params) -> None:
    assert announcement(stage, params) is None
    record_seconds(stage, 1.0)
    assert not SECONDS.exists()
