"""Results of all configurations are read back as they were written, or refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from litmeter.errors import ReportError
from litmeter.measure.comparison_rows import read_comparison
from litmeter.params import load_params
from litmeter.paths import COMPARISON, COMPARISON_TURNS, MACHINE, BenchmarkPaths
from litmeter.report.losses import in_batches
from litmeter.report.results import fastest_first
from litmeter.report.snapshot import read_snapshot
from litmeter.system.files import read_json, write_json
from tests.support.results_project import write_project
from tests.support.synthetic_results import compared, result, turn, write_comparison


@pytest.fixture
def _project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_project()


@pytest.mark.usefixtures("_project")
def test_a_missing_or_malformed_file_is_refused() -> None:
    assert [own.name for own in read_snapshot().results] == list(load_params().configurations())
    paths = BenchmarkPaths("e1_baseline")
    for path in (MACHINE, COMPARISON, COMPARISON_TURNS, paths.metrics, paths.turns):
        content = path.read_bytes()
        path.unlink()
        with pytest.raises(ReportError, match=rf"{path}: No such file.*`dvc repro` makes it"):
            read_snapshot()
        path.write_text("[1, 2]\n")
        with pytest.raises(ReportError, match="malformed"):
            read_snapshot()
        path.write_bytes(content)


@pytest.mark.usefixtures("_project")
def test_a_missing_key_or_row_is_refused_by_its_name() -> None:
    path = BenchmarkPaths("e2_batching").metrics
    content = read_json(path)
    write_json(path, content | {"unknown_rps": 1.0})
    with pytest.raises(ReportError, match="unknown_rps"):
        read_snapshot()
    write_json(path, content)
    write_comparison(read_comparison().rows[:-1])
    with pytest.raises(ReportError, match="no row of candidate"):
        read_snapshot()


def test_times_of_batches_are_interpolated_between_their_sizes_and_those_of_a_request_level_beyond() -> None:
    small = turn("e1", "pipeline", 60.0, workers_cpu_ms=30.0)
    large = turn("e1", "pipeline", 70.0, batch_size=8, workers_cpu_ms=20.0)
    own = result("e1", model=None, pipeline=None, more=[small, large])
    cpu_ms, all_ms = zip(*in_batches(own, 1.0, 4.5, 16.0), strict=True)
    assert cpu_ms == pytest.approx((30.0, (30 + 160) / 2 / 4.5, 20.0))
    assert all_ms[::2] == pytest.approx((2000 / 60, 2000 / 70))
    assert in_batches(result("e1", model=None, pipeline=None), 1.0) == []


def test_rates_are_by_round_and_at_the_size_that_was_compared() -> None:
    twice = [turn("e1", "served", 80.0, 0), turn("e1", "pipeline", 1.0, batch_size=8)]
    own = result("e1", 20.0, more=twice)
    assert own.in_process_size == 1
    assert own.rates("served")[0] == pytest.approx(40.0)  # geometric, of 20 and 80
    pipeline = own.rates("pipeline")
    assert len(pipeline) == 6
    assert min(rate or 0.0 for rate in pipeline) > 50


def test_stage_times_are_weighted_by_answers() -> None:
    few = turn("e1", "served", 20.0, answers=1, stage_ms={"queue": 101.0})
    many = replace(few, answers=99, stage_ms={"queue": 1.0, "model": 10.0})
    own = result("e1", None, more=[few, many])
    assert own.stage_ms == pytest.approx({"queue": 2.0, "model": 9.9})


def test_an_earlier_row_comes_after_those_of_this_run() -> None:
    rows = [
        compared("e1", 20.0, 2),
        replace(compared("e2", 50.0, None), earlier="2026-11-29"),
        compared("e3", None, None),
        compared("e4", 30.0, 1),
    ]
    assert [row.experiment for row in fastest_first(rows)] == ["e4", "e1", "e2", "e3"]
