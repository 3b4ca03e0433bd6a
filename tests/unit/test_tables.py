"""Tables of all configurations: for the plots and for a terminal."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from litmeter.paths import BOUNDS, DIAGNOSIS, EFFICIENCY, LEVELS
from litmeter.report.explain import explain
from litmeter.report.results import Result
from litmeter.report.tables import batch_rows, remarks, results_table, stage_rows
from litmeter.stages.report import write_tables
from litmeter.system.tables import without_empty
from tests.support.synthetic_results import CEILINGS, batch, level, result
from tests.support.tables import read_csv

SLOW = level(1, 20.0, 60.0)
MIDDLE = level(8, 60.0, 300.0)


@pytest.fixture
def results() -> list[Result]:
    """One configuration that was served well, and one whose requests all failed."""
    own = result(
        "e1_base",
        [SLOW, MIDDLE],
        best=MIDDLE,
        baseline=[batch(1, 80.0, 75.0)],
        stages={1: {"queue": 9.0}, 8: {"queue": 1.0, "model": 12.0}},
    )
    return [own, result("e2_none", [level(1, 1.0, None, invalid_reason="3 failed")], stages={})]


def test_the_plots_tables_hold_every_configuration(
    results: list[Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_tables(results, explain(results, CEILINGS))
    levels = read_csv(LEVELS)
    assert [(row["experiment"], row["users"], row["throughput_rps"], row["valid"]) for row in levels] == [
        ("e1_base", "1", "20.0", "True"),
        ("e1_base", "8", "60.0", "True"),
        ("e2_none", "1", "1.0", "False"),
    ]
    assert read_csv(EFFICIENCY) == [
        {"experiment": "e1_base", "efficiency": "0.8"},
        {"experiment": "e2_none", "efficiency": ""},
    ]
    assert [row["cause"] for row in read_csv(DIAGNOSIS)] == [
        "hardware, then unexplained",
        "failed requests",
    ]


def test_the_table_of_bounds_has_rates_intervals_and_shares(
    results: list[Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_tables(results, explain(results, CEILINGS))
    rows = read_csv(BOUNDS)
    served = [row for row in rows if row["experiment"] == "e1_base"]
    assert served[0] == {
        "experiment": "e1_base",
        "bound": "roofline",
        "rate_rps": "110.0",
        "low_rps": "",
        "high_rps": "",
        "share": "",
    }
    assert served[-1] == {
        "experiment": "e1_base",
        "bound": "served",
        "rate_rps": "60.0",
        "low_rps": "58.2",
        "high_rps": "61.8",
        "share": "0.8",
    }
    assert [row["bound"] for row in rows if row["experiment"] == "e2_none"] == [
        "roofline",
        "model",
        "pipeline",
        "pipeline + transport",
    ]


def test_stages_are_those_of_the_best_level(results: list[Result]) -> None:
    assert stage_rows(results) == [
        {"experiment": "e1_base", "stage": "queue", "mean_ms": 1.0},
        {"experiment": "e1_base", "stage": "model", "mean_ms": 12.0},
    ]


def test_batch_sizes_are_those_of_every_level(results: list[Result]) -> None:
    assert [(row["experiment"], row["users"]) for row in batch_rows(results)] == [
        ("e1_base", 1),
        ("e1_base", 8),
        ("e2_none", 1),
    ]


def test_the_terminals_table_marks_invalid_and_unknown_rates() -> None:
    unstable = level(1, 20.0, 60.0, invalid_reason="unstable")
    failed, valid, doubtful = results_table(
        [
            result("e1_failed", [level(1, 20.0, invalid_reason="3 failed")]),
            result("e2_valid", [SLOW], best=SLOW),
            result("e3_doubtful", [unstable], best=unstable),
        ]
    ).splitlines()[1:]
    assert failed.split()[:4] == ["e1_failed", "-", "-", "-"]
    assert valid.split()[:3] == ["e2_valid", "20.0", "1"]
    assert doubtful.split()[:3] == ["e3_doubtful", "20.0*", "1"]


def test_invalid_and_disturbed_levels_are_remarked_on() -> None:
    disturbed = level(1, 20.0, warnings="other processes used 14% of the machine")
    unstable = level(4, 30.0, invalid_reason="unstable", warnings="the hypervisor took 12% of the machine")
    swapped = result("e1_base", [disturbed, unstable], best=disturbed)
    swapped = replace(swapped, accuracy={**swapped.accuracy, "mismatched": 2})
    assert remarks([swapped]) == [
        "e1_base at 1 user: other processes used 14% of the machine",
        "e1_base at 4 users: not valid: unstable",
        "e1_base at 4 users: the hypervisor took 12% of the machine",
        "e1_base: 2 of 900 answers belong to another request",
    ]


def test_columns_of_dashes_are_left_out_behind_those_of_text() -> None:
    head, rows = without_empty(
        ["name", "key", "GPU %", "ms"], [["a", "-", "-", "1"], ["b", "-", "-", "-"]], 2
    )
    assert head == ["name", "key", "ms"]
    assert rows == [["a", "-", "1"], ["b", "-", "-"]]
