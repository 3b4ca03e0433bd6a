"""How long a run is said to take: a whole one, and one that ends with the comparison."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from litmeter.cli import quick
from litmeter.cli.quick import shorten
from litmeter.params import Params, load_params
from litmeter.stages.__main__ import announce
from litmeter.stages.order import COMPARISON_ONLY, announcement, expected_time, place, planned_s
from litmeter.system import progress
from tests.support.project import ROOT


@pytest.fixture
def shortened(tmp_path: Path) -> Params:
    """params.yaml as `litmeter quick` runs it."""
    path = tmp_path / "params.yaml"
    path.write_bytes((ROOT / "params.yaml").read_bytes())
    shorten(path)
    return load_params(path)


def needed_by(stage: str) -> set[str]:
    """The stages of dvc.yaml that `dvc repro STAGE` runs."""
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    writes = {
        next(iter(out)) if isinstance(out, dict) else out: name
        for name, entry in stages.items()
        for out in entry.get("outs", [])
    }
    needed, found = [stage], set()
    while needed:
        name = needed.pop()
        found.add(name)
        needed += [writes[one] for one in stages[name]["deps"] if one in writes and writes[one] not in found]
    return found


def test_a_run_up_to_the_comparison_counts_what_dvc_runs(shortened: Params) -> None:
    planned = planned_s(shortened, comparison_only=True)
    assert {name for (name, *_) in planned} == needed_by("comparison")
    order = list(planned_s(shortened))
    assert list(planned) == [stage for stage in order if stage in planned]


def test_quick_is_said_to_take_three_minutes(shortened: Params) -> None:
    assert expected_time(shortened, comparison_only=True) == (
        "this run takes about 3 minutes on two cores with the default model and photos: "
        "1.2 to train and compile, 1.7 to compare"
    )


def test_quick_says_so_and_tells_its_stages(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    environments = []

    @contextmanager
    def fake_group(command: Sequence[str], *, stdin: int, env: dict[str, str]) -> Iterator[SimpleNamespace]:
        environments.append(env)
        yield SimpleNamespace(wait=lambda: 0)

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(quick, "project_files", lambda: [Path("params.yaml"), Path(".dvc/config")])
    monkeypatch.setattr(quick, "process_group", fake_group)
    assert quick.main() == 0
    assert "quick: this run takes about 3 minutes on two cores" in capsys.readouterr().out
    assert COMPARISON_ONLY in environments[0]


def test_a_stage_of_quick_says_its_number_among_those_that_run(shortened: Params) -> None:
    assert place(("comparison",), shortened, comparison_only=True) == (6, 6)
    assert announcement(("machine",), shortened, comparison_only=True) == (
        "stage 1 of 6 (machine), about 3 min to the end"
    )
    assert announcement(("comparison",), shortened, comparison_only=True) == (
        "stage 6 of 6 (comparison), about 100 s to the end"
    )
    assert announcement(("benchmark", "e7_tuned"), shortened, comparison_only=True) is None


@pytest.mark.parametrize(("variable", "stage"), [(None, "stage 1 of 17 "), ("1", "stage 1 of 6 ")])
def test_a_stage_knows_of_which_run_it_is(
    variable: str | None, stage: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(progress, "_place", "")
    monkeypatch.delenv(COMPARISON_ONLY, raising=False)
    if variable:
        monkeypatch.setenv(COMPARISON_ONLY, variable)
    announce(("machine",))
    assert capsys.readouterr().out.startswith(stage)


def test_fewer_epochs_and_packages_take_less(shortened: Params) -> None:
    params = load_params(ROOT / "params.yaml")
    for stage in (("train",), ("compile",)):
        assert planned_s(shortened)[stage] < planned_s(params)[stage]
    trained = params.model_copy(update={"model": params.model.model_copy(update={"checkpoint": "my.ckpt"})})
    assert planned_s(trained)[("train",)] < planned_s(params)[("train",)]


def test_the_readme_says_the_same() -> None:
    text = " ".join((ROOT / "README.md").read_text().split())
    said = re.search(r"says first how long it takes, (about \d+ minutes on two cores)", text)
    assert said is not None
    params = load_params(ROOT / "params.yaml")
    assert expected_time(params).startswith(f"a whole run takes {said[1]} with the default model")
    assert announcement(("machine",), params) == (
        f"stage 1 of 17 (machine), {said[1].removesuffix('utes on two cores')} to the end, "
        "less what has not changed"
    )
