"""The comparison: names, choices, and the README's section."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from servebench.errors import ReportError
from servebench.params import ServeSettings, load_params
from servebench.paths import PICTURES_FOLDER
from servebench.report.collect import Baseline, Level, Result, collect
from servebench.report.pictures import draw_all
from servebench.report.readme import BEGIN, END, README, results_section, write_results_section
from servebench.report.run import best_within, short_names, summary, table, verdict
from servebench.results import read_json
from tests.conftest import ROOT


def level(users: int, rps: float, p95_ms: float | None, valid: bool = True) -> Level:
    return Level(
        users=users,
        throughput_rps=rps,
        low_rps=rps * 0.97,
        high_rps=rps * 1.03,
        p50_ms=10.0,
        p95_ms=p95_ms,
        p99_ms=None,
        cpu_percent=80.0,
        gpu_percent=None,
        valid=valid,
        why="" if valid else "3 failed",
    )


def result(name: str, *levels: Level, best: Level | None = None) -> Result:
    metrics: dict[str, Any] = {
        "throughput_rps": best.throughput_rps if best else None,
        "users": best.users if best else None,
        "p50_ms": 10.0,
        "p95_ms": best.p95_ms if best else None,
        "p99_ms": None,
        "baseline_rps": 120.0,
        "efficiency": 0.8 if best else None,
        "cpu_percent": 80.0,
        "gpu_percent": None,
        "failed": 0,
    }
    meta = {"dtype": "float32", "device": "cpu", "threads_per_worker": 2}
    return Result(
        name, ServeSettings(), metrics, meta, levels, [Baseline(1, 90.0, 70.0), Baseline(8, 120.0, 100.0)]
    )


SLOW = level(1, 20.0, 60.0)
FAST = level(32, 90.0, 700.0)
MIDDLE = level(8, 60.0, 300.0)


def test_short_names_are_unique() -> None:
    assert short_names(["e1_a", "e2_b", "candidate"]) == {
        "e1_a": "e1",
        "e2_b": "e2",
        "candidate": "candidate",
    }
    assert short_names(["e1_a", "e1_b"]) == {"e1_a": "e1_a", "e1_b": "e1_b"}


def test_the_summary_names_the_fastest_and_the_one_to_ship() -> None:
    first = result("e1_base", SLOW, best=SLOW)
    second = result("e2_more", SLOW, MIDDLE, FAST, best=FAST)
    candidate = result("candidate", level(8, 500.0, 10.0), best=level(8, 500.0, 10.0))
    compared = summary([first, second, candidate], slo_ms=400.0)
    assert compared == {
        "e1_rps": 20.0,
        "e2_rps": 90.0,
        "candidate_rps": 500.0,
        "best": "e2_more",
        "best_gain": 4.5,
        "best_within_slo": "e2_more",
        "within_slo_rps": 60.0,
        "within_slo_users": 8,
    }
    text = verdict(compared, 400.0)
    assert "Fastest: e2_more, 4.50 times the rate of the first" in text
    assert "Fastest with p95 below 400 ms: e2_more, 60.0 req/s at 8 users" in text


def test_an_invalid_or_unknown_latency_keeps_no_objective() -> None:
    assert best_within(result("a", level(8, 60.0, 300.0, valid=False)), 400.0) is None
    assert best_within(result("a", level(8, 60.0, None)), 400.0) is None


def test_without_a_valid_level_nothing_is_best() -> None:
    nothing = result("e1_base", level(1, 20.0, 60.0, valid=False))
    compared = summary([nothing, result("candidate", SLOW, best=SLOW)], 400.0)
    assert compared["best"] is None
    assert compared["best_within_slo"] is None
    assert verdict(compared, 400.0) == "No experiment has a valid level"
    assert " - " in table([nothing])


def test_pictures_are_drawn_for_each_and_those_of_others_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    PICTURES_FOLDER.mkdir(parents=True)
    (PICTURES_FOLDER / "gone.png").write_bytes(b"old")
    results = [result("e1_base", SLOW, best=SLOW), result("e2_none", level(1, 1.0, None, valid=False))]
    draw_all(results, 400.0)
    names = sorted(path.name for path in PICTURES_FOLDER.iterdir())
    assert names == ["comparison.png", "e1_base.png", "e2_none.png"]
    once = (PICTURES_FOLDER / "comparison.png").read_bytes()
    draw_all(results, 400.0)
    assert (PICTURES_FOLDER / "comparison.png").read_bytes() == once


@pytest.fixture
def committed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the committed results and nothing else."""
    for name in ("metrics", "plots", "assets", "params.yaml", "README.md"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_results_of_an_unknown_experiment_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    params = load_params(ROOT / "params.yaml")
    with pytest.raises(ReportError, match=r"metrics/benchmark/e1_baseline\.json: No such file"):
        collect(params)
    stray = tmp_path / "plots/baseline/e9_gone.csv"
    stray.parent.mkdir(parents=True)
    stray.write_text("batch_size\n")
    with pytest.raises(ReportError, match=r"e9_gone\.csv is of an experiment .* git rm"):
        collect(params)


def test_the_committed_metrics_are_flat_and_the_same_for_all(committed: Path) -> None:
    results = collect(load_params())
    keys = [list(result.metrics) for result in results]
    assert all(own == keys[0] for own in keys)
    assert len(keys[0]) == 10
    for own in results:
        assert not any(isinstance(value, dict | list) for value in own.metrics.values())


def test_the_committed_summary_follows_from_the_committed_metrics(committed: Path) -> None:
    params = load_params()
    assert read_json(Path("metrics/summary.json")) == summary(collect(params), params.load.slo_p95_ms)


def test_a_readme_without_markers_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    README.write_text(f"# title\n{BEGIN}\n")
    with pytest.raises(ReportError, match="end of results"):
        write_results_section()


def test_the_readmes_results_are_those_of_the_committed_metrics() -> None:
    text = (ROOT / README).read_text()
    section = text.partition(BEGIN)[2].partition(END)[0].strip()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        assert section == results_section()
