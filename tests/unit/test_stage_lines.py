"""Lines about a stage as it begins, and about its result."""

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
def test_settings_are_said_first_and_the_same_settings_once(capsys: pytest.CaptureFixture[str]) -> None:
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


def test_a_benchmark_has_each_turn_and_why_it_is_void(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [turn("mine", "served", 40.0, users=1), turn("mine", "served", None, users=8, void="it died")]
    metrics = BenchmarkMetrics(ready_s=1.5, memory_mib=300.0)
    done("benchmark", (rows, metrics), "mine")
    lone, eight, whole = capsys.readouterr().out.splitlines()
    assert "1 user: 40.0 req/s" in lone
    assert "it died" in eight
    assert "photos" not in whole
    known = {"photos": 9, "agreement": 1.0, "accuracy": 0.9, "mismatched": 0}
    done("benchmark", ([], metrics.model_copy(update=known)), "mine")
    assert "of 9 test photos" in capsys.readouterr().out


@pytest.mark.usefixtures("project")
def test_a_comparison_has_its_table_and_the_effect_of_changes(capsys: pytest.CaptureFixture[str]) -> None:
    done("comparison", (Log(), read_comparison()))
    said = capsys.readouterr().out
    assert "| e7_tuned " in said
    assert "max_batch_size 4 -> 8: 1.02" in said


def test_ceilings_have_a_line_for_each_precision_where_flops_are_known(
    capsys: pytest.CaptureFixture[str],
) -> None:
    metrics = read_json(ROOT / CEILINGS)
    for known in (metrics, metrics | {"flops": None}):
        done("ceilings", known)
        said = capsys.readouterr().out
        for precision in ("full", "half", "int8"):
            has = f"peak_{precision}_tflops" in metrics and known["flops"] is not None
            assert (f"\n{precision}: " in said) is has
