"""The comparison in a few numbers, and in sentences: rates, the fastest, and the fastest to ship."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from litmeter.errors import ReportError
from litmeter.params import Params, load_params
from litmeter.report.comparison import compared_rows, verdict
from litmeter.report.summary import rates, short_names, significant
from tests.support.project import ROOT
from tests.support.synthetic_results import compared

REFERENCE = compared("e1_baseline", 20.0, 3, p95_ms=400.0)
FAST = compared("e4_half", 90.0, 1, p95_ms=700.0)
CANDIDATE = compared("candidate", 60.0, 2, p95_ms=300.0)
SILENT = compared("e2_batching", None, None, p95_ms=None)


@pytest.fixture
def params() -> Params:
    """The project's, with a p95 of at most 500 ms."""
    params = load_params(ROOT / "params.yaml")
    objective = params.objective.model_copy(update={"slo_ms": 500.0})
    comparison = params.comparison.model_copy(update={"reference": REFERENCE.experiment, "users": (8,)})
    return params.model_copy(update={"objective": objective, "comparison": comparison})


@pytest.mark.parametrize(
    ("names", "short"),
    [
        (["e1_a", "e2_b", "candidate"], ["e1", "e2", "candidate"]),
        (["e1_a", "e1_b", "e2_c_d"], ["e1_a", "e1_b", "e2"]),
        (["candidate_b", "candidate"], ["candidate_b", "candidate"]),
        (["a"], ["a"]),
    ],
)
def test_names_are_cut_where_they_stay_unique(names: list[str], short: list[str]) -> None:
    assert short_names(names) == dict(zip(names, short, strict=True))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1234.5, "1230.0"),
        (512.34, "512.0"),
        (99.96, "100.0"),
        (35.249, "35.2"),
        (0.012345, "0.0123"),
        (0.0, "0.0"),
    ],
)
def test_rates_are_rounded_to_three_significant_digits(value: float, text: str) -> None:
    assert json.dumps(significant(value)) == text


def test_the_summary_has_a_rate_by_short_name_candidate_first() -> None:
    found = rates([compared("e1_baseline", 35.249, 1), SILENT, compared("candidate", 512.34, 1)])
    assert list(found.items()) == [("candidate", 512.0), ("e1", 35.2), ("e2", 0.0)]


def test_the_fastest_and_the_one_to_ship_may_differ(params: Params) -> None:
    assert verdict([REFERENCE, FAST, CANDIDATE], params) == [
        "Fastest at 8 users: e4_half, 90.0 req/s, 4.50 times e1_baseline (4.27 to 4.73).",
        "Fastest with p95 below 500 ms: candidate, 300 ms.",
    ]


def test_the_fastest_may_be_the_candidate(params: Params) -> None:
    first = compared("candidate", 120.0, 1)
    second = replace(FAST, rank=2)
    assert verdict([REFERENCE, second, first], params)[0].startswith(
        "Fastest at 8 users: candidate, 120.0 req/s"
    )


def test_equals_are_named_together(params: Params) -> None:
    equal = compared("e5_mixed", 88.0, 1)
    assert verdict([REFERENCE, equal, FAST], params)[0] == (
        "Fastest at 8 users: e4_half and e5_mixed, between which no difference is resolved; "
        "e4_half serves 90.0 req/s, 4.50 times e1_baseline (4.27 to 4.73)."
    )
    quick = [replace(row, p95_ms=300.0) for row in (equal, FAST)]
    assert verdict([REFERENCE, *quick], params)[-1] == (
        "Fastest with p95 below 500 ms: e4_half, 300 ms or e5_mixed, 300 ms; which of them is not resolved."
    )


def test_an_efficiency_above_1_is_an_error_of_measuring(params: Params) -> None:
    above = replace(FAST, efficiency=1.12, efficiency_low=1.07, efficiency_high=1.18)
    assert verdict([REFERENCE, above], params)[1] == (
        "e4_half, 8 users: served faster than in-process, 1.12 (1.07 to 1.18) times: an error of measuring."
    )
    near = replace(above, efficiency_low=0.99)
    assert len(verdict([REFERENCE, near], params)) == 2


def test_an_objective_that_nobody_keeps_is_said(params: Params) -> None:
    assert verdict([FAST, compared("e1_baseline", 20.0, 2, p95_ms=None)], params)[-1] == (
        "None is known to keep its p95 below 500 ms."
    )


def test_a_configuration_without_an_answer_is_named(params: Params) -> None:
    assert "Without an answer in one round or more: e2_batching." in verdict(
        [replace(REFERENCE, rank=1), SILENT], params
    )


def test_one_dropped_early_is_named_and_not_shipped(params: Params) -> None:
    far = replace(compared("e3_workers", 2.0, None), ratio_low=None, ratio_high=None)
    said = verdict([REFERENCE, far, FAST, CANDIDATE], params)
    assert "Not ranked, as they were far behind or answered in too few rounds: e3_workers." in said
    assert said[-1] == "Fastest with p95 below 500 ms: candidate, 300 ms."


def test_without_an_answer_of_the_reference_nothing_is_compared(params: Params) -> None:
    assert (
        verdict([SILENT], params)[0] == "No configuration could be compared: the reference answered nothing."
    )


def test_rows_are_in_the_order_of_the_parameters(params: Params) -> None:
    rows = [compared(name, 20.0, 1) for name in params.configurations()]
    assert compared_rows(rows[::-1], params) == rows
    with pytest.raises(ReportError, match=r"has no row at 8 users of candidate; `dvc repro comparison`"):
        compared_rows(rows[:-1], params)
    with pytest.raises(ReportError, match=r"has rows of e9_gone, which params.yaml has not; `dvc repro comp"):
        compared_rows([*rows, compared("e9_gone", 20.0, 1)], params)


def test_who_fails_requests_does_not_keep_to_the_objective(params: Params) -> None:
    failing = replace(CANDIDATE, rank=1, failed=7)
    said = verdict([REFERENCE, failing], params)
    assert "Requests failed, and count in no rate: candidate (7)." in said
    assert said[-1] == "Fastest with p95 below 500 ms: e1_baseline, 400 ms."
