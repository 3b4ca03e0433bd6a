"""Results of all configurations are read back as they were written, or refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from litmeter.errors import ReportError
from litmeter.params import Params, ServeSettings, load_params
from litmeter.paths import BenchmarkPaths
from litmeter.report.results import Result, read_results
from litmeter.system.files import read_json, write_json
from tests.support.project import ROOT
from tests.support.synthetic_results import batch, level, result, write_result


@pytest.fixture
def params() -> Params:
    experiments = {"e1_baseline": ServeSettings(), "e2_batching": ServeSettings(max_batch_size=4)}
    return load_params(ROOT / "params.yaml").model_copy(update={"experiments": experiments})


@pytest.fixture
def written(params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Result]:
    """Results of every configuration, in an empty project."""
    monkeypatch.chdir(tmp_path)
    written = [
        result(name, [level(1, 20.0), level(8, 60.0, None)], best=level(8, 60.0, None), serve=serve)
        for name, serve in params.configurations().items()
    ]
    for own in written:
        write_result(own)
    return written


def test_results_are_read_back_as_they_were_written(params: Params, written: list[Result]) -> None:
    assert read_results(params) == written


def test_a_missing_or_malformed_file_is_named(params: Params, written: list[Result]) -> None:
    paths = BenchmarkPaths("e1_baseline")
    for path in set(paths.files) - {paths.samples}:
        content = path.read_bytes()
        path.unlink()
        with pytest.raises(ReportError, match=rf"{path}: No such file.*`dvc repro` makes it"):
            read_results(params)
        path.write_text("[1, 2]\n")
        with pytest.raises(ReportError, match="results of e1_baseline: malformed"):
            read_results(params)
        path.write_bytes(content)
    assert read_results(params) == written


@pytest.mark.parametrize(("path", "key"), [("metrics", "users"), ("run", "null_rps")])
def test_a_missing_key_is_refused_by_its_name(
    params: Params, written: list[Result], path: str, key: str
) -> None:
    file: Path = getattr(BenchmarkPaths("e2_batching"), path)
    content = read_json(file)
    del content[key]
    write_json(file, content)
    with pytest.raises(ReportError, match=rf"results of e2_batching: malformed \(KeyError\('{key}'\)\)"):
        read_results(params)


def test_results_of_an_unknown_experiment_are_refused(params: Params, written: list[Result]) -> None:
    write_result(result("e9_gone", [level(1, 20.0)]))
    with pytest.raises(ReportError, match=r"results of e9_gone, .* rm -r metrics/benchmark/e9_gone\.json"):
        read_results(params)


def test_the_models_time_is_interpolated_between_batch_sizes() -> None:
    rows = [batch(8, 80.0, 70.0, model_ms=100.0), batch(1, 70.0, 60.0, model_ms=30.0)]
    own = result("e1_base", [level(1, 20.0)], baseline=rows)
    assert own.model_ms(1.0) == 30.0
    assert own.model_ms(4.5) == 65.0
    assert own.model_ms(16.0) == 200.0


def test_the_pipelines_rate_is_level_beyond_the_largest_size() -> None:
    rows = [batch(8, 80.0, 70.0), batch(1, 70.0, 60.0)]
    own = result("e1_base", [level(1, 20.0)], baseline=rows)
    assert own.pipeline_rps(1.0) == 60.0
    assert own.pipeline_rps(4.5) == 65.0
    assert own.pipeline_rps(16.0) == 70.0
