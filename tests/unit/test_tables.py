"""Tables of all configurations: for the plots and for a terminal."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from litmeter.errors import ReportError
from litmeter.params import load_params
from litmeter.paths import BATCHES, BOUNDS, DIAGNOSIS, EFFICIENCY, LEVELS, STAGES
from litmeter.report.claims import remarks
from litmeter.report.diagnosis import explain
from litmeter.report.results import Result
from litmeter.report.snapshot import compared_rows
from litmeter.report.tables import short_names, summary
from litmeter.stages.report import write_tables
from tests.support.project import ROOT
from tests.support.synthetic_results import CEILINGS, batch, compared, level, result
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

    def cells(path: Path, *columns: str) -> list[tuple[str, ...]]:
        return [tuple(row[column] for column in columns) for row in read_csv(path)]

    assert cells(LEVELS, "experiment", "users", "throughput_rps", "valid") == [
        ("e1_base", "1", "20.0", "True"),
        ("e1_base", "8", "60.0", "True"),
        ("e2_none", "1", "1.0", "False"),
    ]
    assert cells(EFFICIENCY, "experiment", "efficiency") == [("e1_base", "0.8"), ("e2_none", "")]
    assert cells(DIAGNOSIS, "cause") == [("hardware, then unexplained",), ("failed requests",)]
    assert cells(STAGES, "experiment", "stage", "mean_ms") == [
        ("e1_base", "queue", "1.0"),  # of the best level
        ("e1_base", "model", "12.0"),
    ]
    assert cells(BATCHES, "experiment", "users") == [("e1_base", "1"), ("e1_base", "8"), ("e2_none", "1")]
    bounds = cells(BOUNDS, "experiment", "bound", "rate_rps", "low_rps", "high_rps", "share")
    served = [row[1:] for row in bounds if row[0] == "e1_base"]
    assert served[0] == ("roofline", "110.0", "", "", "")
    assert served[-1] == ("served", "60.0", "58.2", "61.8", "0.8")
    assert [row[1] for row in bounds if row[0] == "e2_none"] == [
        *("roofline", "model", "pipeline", "pipeline + transport"),
    ]


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


@pytest.mark.parametrize(
    ("names", "short"),
    [
        (["e1_a", "e2_b", "candidate"], ["e1", "e2", "candidate"]),
        (["e1_a", "e1_b", "e2_c_d"], ["e1_a", "e1_b", "e2"]),
        (["candidate_b", "candidate"], ["candidate_b", "candidate"]),
    ],
)
def test_names_are_cut_where_they_stay_unique(names: list[str], short: list[str]) -> None:
    assert short_names(names) == dict(zip(names, short, strict=True))


def test_the_summary_has_a_rate_by_short_name_candidate_first() -> None:
    silent = compared("e2_batching", None, None)
    found = summary([compared("e1_baseline", 35.249, 1), silent, compared("candidate", 512.34, 1)])
    assert list(found.items()) == [("candidate", 512.0), ("e1", 35.2), ("e2", 0.0)]


def test_rows_are_in_the_order_of_the_parameters() -> None:
    params = load_params(ROOT / "params.yaml")
    comparison = params.comparison.model_copy(update={"users": (8,)})
    params = params.model_copy(update={"comparison": comparison})
    rows = [compared(name, 20.0, 1) for name in params.configurations()]
    assert compared_rows(rows[::-1], params) == rows
    with pytest.raises(ReportError, match=r"has no row at 8 users of candidate; `dvc repro comparison`"):
        compared_rows(rows[:-1], params)
    with pytest.raises(ReportError, match=r"has rows of e9_gone, which params.yaml has not; `dvc repro comp"):
        compared_rows([*rows, compared("e9_gone", 20.0, 1)], params)
