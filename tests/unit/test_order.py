"""Where a run stands."""

from __future__ import annotations

import pytest
import yaml

from litmeter.params import Params, load_params
from litmeter.stages.order import announcement, place, planned_s
from tests.support.project import ROOT


@pytest.fixture(scope="module")
def params() -> Params:
    return load_params(ROOT / "params.yaml")


def test_the_order_is_that_of_the_pipeline(params: Params) -> None:
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    expected: list[tuple[str, ...]] = []
    for name in stages:
        if name == "benchmark":
            expected += [("benchmark", experiment) for experiment in params.experiments]
        else:
            expected.append(("benchmark", "candidate") if name == "candidate" else (name,))
    assert list(planned_s(params)) == expected


def test_a_stage_says_its_number_and_what_is_left(params: Params) -> None:
    count = len(planned_s(params))
    assert place(("machine",), params) == (1, count)
    assert place(("report",), params) == (count, count)
    assert announcement(("report",), params) == (
        f"stage {count} of {count} (report), about 10 s to the end, less what has not changed"
    )
    candidate = announcement(("benchmark", "candidate"), params)
    assert candidate is not None
    assert candidate.startswith(f"stage {count - 2} of {count} (candidate), about 6 min to the end")


@pytest.mark.parametrize("stage", [("capacity", "candidate"), ("tune",), ("benchmark", "unknown")])
def test_a_stage_that_stands_alone_says_nothing(stage: tuple[str, ...], params: Params) -> None:
    assert place(stage, params) is None
    assert announcement(stage, params) is None
