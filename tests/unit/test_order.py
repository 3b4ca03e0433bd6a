"""Where a run stands, and how long it takes by what each stage has recorded."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from litmeter.cli.copies import shorten
from litmeter.params import Params, load_params
from litmeter.paths import MACHINE
from litmeter.stages import order
from litmeter.stages.order import (
    COMPARISON_ONLY,
    UNRECORDED,
    announcement,
    expected,
    planned,
    record_seconds,
    seconds_file,
    whole_run,
)
from litmeter.system.files import read_json, write_json
from tests.support.project import ROOT


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """Of a project without results, in the working directory."""
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(COMPARISON_ONLY, raising=False)
    write_json(MACHINE, {"id": "here"})
    return load_params()


def record_all(params: Params, seconds: float = 60.0, **others: str) -> None:
    for stage in planned(params):
        if stage not in UNRECORDED:
            record_seconds(stage, seconds)
            write_json(seconds_file(stage), read_json(seconds_file(stage)) | others)


def test_what_is_recorded_is_what_the_pipeline_declares(params: Params) -> None:
    """DVC ends a stage that has not written one of its outputs."""
    record_all(params)
    text = Path("dvc.yaml").read_text().replace("${key}", "{}")
    for stage in planned(params):
        path = str(seconds_file(stage))
        declared = f"- {path}:" in text or f"- {path.replace(stage[-1], '{}')}:" in text
        assert declared == seconds_file(stage).exists() == (stage not in UNRECORDED)
    record_seconds(("capacity", "candidate"), 1.0)
    assert not seconds_file(("capacity", "candidate")).exists()


def test_a_run_that_ends_with_the_comparison_has_what_that_needs(
    params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(COMPARISON_ONLY, "1")
    names = [name for (name, *_) in planned(params)]
    assert names == ["machine", "data", "train", "export", "compile", "packages", "comparison"]


def test_before_the_first_run_no_time_is_said(params: Params) -> None:
    assert whole_run(params) is None
    assert announcement(("train",), params) == ("3/18", "stage 3 of 18 (train)")


def test_the_time_is_what_the_stages_took_and_the_comparison_may_take(params: Params) -> None:
    record_all(params, 60.0)
    recorded = len(planned(params)) - len(UNRECORDED)
    total = recorded + round(params.comparison.seconds / 60)
    assert whole_run(params) == f"a whole run takes about {total} min; what has not changed is left out"
    left = round(1 + params.comparison.seconds / 60)
    assert announcement(("benchmark", "candidate"), params) == (
        "16/18",
        f"stage 16 of 18 (candidate), about {left} min to the end, less what has not changed",
    )
    assert announcement(("report",), params) == ("18/18", "stage 18 of 18 (report)")


def test_a_new_experiment_takes_longer_nobody_knows_how_much(params: Params) -> None:
    record_all(params)
    seconds_file(("benchmark", "e1_baseline")).unlink()
    seconds_file(("benchmark", "e2_batching")).write_text("{}")
    assert expected([("data",), ("benchmark", "e1_baseline")], params) == "at least 60 s"
    assert expected([("data",), ("benchmark", "e2_batching")], params) == "at least 60 s"


@pytest.mark.parametrize("others", [{"machine": "there"}, {"model": "resnet18"}])
def test_the_time_of_another_machine_or_model_is_called_that(params: Params, others: dict[str, str]) -> None:
    record_all(params, **others)
    assert expected([("data",)], params) == f"about 60 s{order.ELSEWHERE}"
    record_seconds(("data",), 7.0)  # it has run here
    assert expected([("data",)], params) == "about 7 s"


@pytest.mark.parametrize("stage", [("capacity", "candidate"), ("tune",), ("benchmark", "unknown")])
def test_a_stage_that_stands_alone_says_nothing(stage: tuple[str, ...], params: Params) -> None:
    assert announcement(stage, params) is None


def test_a_quick_comparison_trains_compiles_and_compares_less(params: Params) -> None:
    shorten(Path("params.yaml"))
    quick = load_params()
    assert quick.train.epochs < params.train.epochs
    assert set(quick.compile.batch_sizes) == {1, max(params.compile.batch_sizes)}
    assert quick.comparison.seconds < params.comparison.seconds
    assert quick.configurations() == params.configurations()


def test_a_quick_comparison_of_a_model_as_it_is_compiles_less(params: Params) -> None:
    path = Path("params.yaml")
    content = yaml.safe_load(path.read_text()) | {"train": None}
    path.write_text(yaml.safe_dump(content))
    shorten(path)
    assert len(yaml.safe_load(path.read_text())["compile"]["batch_sizes"]) < len(params.compile.batch_sizes)
