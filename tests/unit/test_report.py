"""The comparison: names, choices, and the README's section."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from servebench.report.document import BEGIN, END, README, results_section, write_results_section
from servebench.report.plots.configurations import draw_all
from studies.readme import tables

from servebench.errors import ReportError
from servebench.params import load_params
from servebench.paths import LADDERS_FOLDER, PICTURES_FOLDER, existing_results
from servebench.report.results import collect
from servebench.report.tables import batch_rows, remarks, stage_rows, table
from servebench.stages.report import best_within, explain, short_names, summary, verdict, write_tables
from servebench.system.files import read_csv, read_json
from tests.support.project import ROOT
from tests.support.synthetic_results import CEILINGS, batch, level, result

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
    first = result("e1_base", [SLOW], best=SLOW)
    second = result("e2_more", [SLOW, MIDDLE, FAST], best=FAST)
    candidate = result("candidate", [level(8, 500.0, 10.0)], best=level(8, 500.0, 10.0))
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
    assert best_within(result("a", [level(8, 60.0, 300.0, valid=False)]), 400.0) is None
    assert best_within(result("a", [level(8, 60.0, None)]), 400.0) is None


def test_without_a_valid_level_nothing_is_best() -> None:
    unstable = level(1, 20.0, 60.0, valid=False, why="unstable")
    failed = result("e1_base", [level(1, 20.0, 60.0, valid=False, why="3 failed")])
    doubtful = result("e2_more", [unstable], best=unstable)
    compared = summary([failed, doubtful, result("candidate", [SLOW], best=SLOW)], 400.0)
    assert compared["e2_rps"] == 20.0
    assert compared["best"] is None
    assert compared["best_within_slo"] is None
    assert verdict(compared, 400.0) == "No experiment has a valid level"
    assert " - " in table([failed])
    assert "20.0*" in table([doubtful])


def test_levels_that_are_not_valid_or_were_disturbed_are_remarked_on() -> None:
    disturbed = level(1, 20.0, notes="other processes used 14% of the machine")
    unstable = level(4, 30.0, valid=False, why="unstable", notes="the hypervisor took 12% of the machine")
    swapped = result("e1_base", [disturbed, unstable], best=disturbed)
    swapped = replace(swapped, answers={**swapped.answers, "mismatched": 2})
    assert remarks([swapped]) == [
        "e1_base at 1 user: other processes used 14% of the machine",
        "e1_base at 4 users: not valid: unstable",
        "e1_base at 4 users: the hypervisor took 12% of the machine",
        "e1_base: 2 of 900 answers belong to another request",
    ]


def test_tables_for_the_plots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    LADDERS_FOLDER.mkdir(parents=True)
    (LADDERS_FOLDER / "e9_gone.csv").write_text("rung\n")
    own = result(
        "e1_base",
        [SLOW, MIDDLE],
        best=MIDDLE,
        baseline=[batch(1, 80.0, 75.0)],
        stages={1: {"queue": 9.0}, 8: {"queue": 1.0, "model": 12.0}},
    )
    failed = result("e2_none", [level(1, 1.0, None, valid=False, why="3 failed")], stages={})
    results = [own, failed]
    write_tables(results, explain(results, CEILINGS))
    assert [path.name for path in sorted(LADDERS_FOLDER.iterdir())] == ["e1_base.csv", "e2_none.csv"]
    rows = read_csv(LADDERS_FOLDER / "e1_base.csv")
    assert rows[0] == {"rung": "roofline", "rate_rps": "110.0", "low_rps": "", "high_rps": "", "share": ""}
    assert rows[-1] == {
        "rung": "served",
        "rate_rps": "60.0",
        "low_rps": "58.2",
        "high_rps": "61.8",
        "share": "0.8",
    }
    assert [row["rung"] for row in read_csv(Path("plots/ladder.csv")) if row["experiment"] == "e2_none"] == [
        "roofline",
        "model",
        "pipeline",
        "pipeline + transport",
    ]
    assert [row["cause"] for row in read_csv(Path("plots/limits.csv"))] == ["unexplained", "failed requests"]
    assert stage_rows(results) == [
        {"experiment": "e1_base", "stage": "queue", "mean_ms": 1.0},
        {"experiment": "e1_base", "stage": "model", "mean_ms": 12.0},
    ]
    assert len(batch_rows(results)) == 3


def test_the_models_time_for_a_batch_between_and_beyond_those_measured() -> None:
    rows = [batch(8, 80.0, 70.0, model_ms=100.0), batch(1, 70.0, 60.0, model_ms=30.0)]
    own = result("e1_base", [SLOW], best=SLOW, baseline=rows)
    assert own.model_ms(1.0) == 30.0
    assert own.model_ms(4.5) == 65.0
    assert own.model_ms(16.0) == 200.0


def test_pictures_are_drawn_for_each_and_those_of_others_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    PICTURES_FOLDER.mkdir(parents=True)
    (PICTURES_FOLDER / "gone.png").write_bytes(b"old")
    failed = level(1, 1.0, None, valid=False, why="3 failed", batch_size=None, cpu_percent=None)
    results = [result("e1_base", [SLOW], best=SLOW), result("e2_none", [failed], stages={})]
    ladders = explain(results, CEILINGS).ladders
    draw_all(results, ladders, 400.0)
    names = sorted(path.stem for path in PICTURES_FOLDER.iterdir())
    compared = ["batch_sizes", "comparison", "latency", "stages", "waterfall"]
    assert names == sorted(["e1_base", "e2_none", *compared])
    before = {name: (PICTURES_FOLDER / f"{name}.png").read_bytes() for name in compared}
    draw_all(results, ladders, 400.0)
    assert {name: (PICTURES_FOLDER / f"{name}.png").read_bytes() for name in compared} == before


def test_pictures_of_nothing_but_failures_are_drawn_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    failed = level(1, 1.0, None, valid=False, why="3 failed", batch_size=None, cpu_percent=None)
    results = [result("e1_none", [failed], stages={})]
    draw_all(results, explain(results, CEILINGS).ladders, 400.0)
    assert (PICTURES_FOLDER / "stages.png").exists()


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
    for folder in ("plots/baseline", "plots/stages", "plots/batches", "metrics/answers"):
        stray = tmp_path / folder / "e9_gone.csv"
        stray.parent.mkdir(parents=True)
        stray.write_text("users\n")
        assert existing_results() == [stray.relative_to(tmp_path)]
        with pytest.raises(ReportError, match=rf"{folder}/e9_gone\.csv is of an experiment .* git rm"):
            collect(params)
        stray.unlink()


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


def test_the_readme_shows_the_checks_of_the_committed_verification() -> None:
    checks = read_json(ROOT / "metrics/verify.json")["checks"]
    readme = (ROOT / "README.md").read_text()
    for check in checks:
        [row] = [line for line in readme.splitlines() if line.startswith(f"| {check['name']} ")]
        assert f" {check['measured']:.2f}".rstrip("0").rstrip(".") in row
        assert ("passed" if check["passed"] else "FAILED") in row


def test_the_readme_shows_what_the_benchmarks_have_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """`python -m studies.readme` writes it."""
    monkeypatch.chdir(ROOT)
    text = (ROOT / "README.md").read_text()
    for kept in tables():
        assert kept in text
