"""What is said of a stage as it begins, and of its result."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from litmeter.measure.comparison_rows import read_comparison
from litmeter.measure.log import Log
from litmeter.measure.rows import BenchmarkMetrics
from litmeter.paths import CEILINGS
from litmeter.report.stage_lines import begin, done
from litmeter.system.files import read_json
from tests.support.project import ROOT
from tests.support.results_project import write_project
from tests.support.synthetic_results import turn


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_project(changed=True)


@pytest.mark.usefixtures("project")
def test_settings_are_said_first_and_the_same_ones_once(capsys: pytest.CaptureFixture[str]) -> None:
    content = yaml.safe_load(Path("params.yaml").read_text())
    content["experiments"]["twin"] = content["serve"]
    content["objective"]["configurations"] = ["candidate", "e7_tuned", "twin"]
    Path("params.yaml").write_text(yaml.safe_dump(content))
    begin("capacity")
    candidate, tuned, twin = capsys.readouterr().out.splitlines()
    assert f"max_batch_size {content['serve']['max_batch_size']}" in candidate
    assert tuned.startswith("e7_tuned: ")
    assert twin == "twin: same as candidate"
    begin("benchmark", "twin")
    assert capsys.readouterr().out == candidate.replace("candidate", "twin") + "\n"
    begin("comparison")
    assert capsys.readouterr().out == ""


def test_of_a_benchmark_each_turn_is_said_and_why_one_is_void(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [turn("mine", "served", 40.0, users=1), turn("mine", "served", None, users=8, void="it died")]
    metrics = BenchmarkMetrics(ready_s=1.5, memory_mib=300.0)
    done("benchmark", (rows, metrics), "mine")
    one, eight, whole = capsys.readouterr().out.splitlines()
    assert "1 user: 40.0 req/s" in one
    assert "void: it died" in eight
    assert "photos" not in whole
    known = {"photos": 9, "agreement": 1.0, "accuracy": 0.9, "mismatched": 0}
    done("benchmark", ([], metrics.model_copy(update=known)), "mine")
    assert "of 9 test photos" in capsys.readouterr().out


@pytest.mark.usefixtures("project")
def test_of_a_comparison_the_table_and_the_change_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    done("comparison", (Log(), read_comparison()))
    said = capsys.readouterr().out
    assert "| e7_tuned " in said
    assert "max_batch_size 4 -> 8: 1.02" in said


def test_of_ceilings_each_precision_has_a_line_where_flops_are_known(
    capsys: pytest.CaptureFixture[str],
) -> None:
    metrics = read_json(ROOT / CEILINGS)
    done("ceilings", metrics)
    said = capsys.readouterr().out
    assert [f"\n{one}: " in said for one in ("full", "half", "int8")] == [
        f"peak_{one}_tflops" in metrics for one in ("full", "half", "int8")
    ]
    done("ceilings", metrics | {"flops": None})
    assert "not available" in capsys.readouterr().out
