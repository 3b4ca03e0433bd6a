"""What is said of the results: who is fastest, what limits it, what is in doubt, and what to try next."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest

from litmeter.measure.rows import ComparisonRow, TurnRow
from litmeter.params import CANDIDATE, Params, load_params
from litmeter.report.claims import answer, caveats, finding, next_step, terms, verdict
from litmeter.report.snapshot import Snapshot, lead_of
from tests.support.project import ROOT
from tests.support.search import tuned
from tests.support.synthetic_results import compared

REFERENCE = compared("e1_baseline", 20.0, 3, p95_ms=400.0)
FAST = compared("e4_half", 90.0, 1, p95_ms=700.0)
SHIPPED = compared("candidate", 60.0, 2, p95_ms=300.0)
SILENT = compared("e2_batching", None, None, p95_ms=None)


@pytest.fixture
def params() -> Params:
    """The project's, with a p95 of at most 500 ms."""
    params = load_params(ROOT / "params.yaml")
    objective = params.objective.model_copy(update={"slo_ms": 500.0})
    comparison = params.comparison.model_copy(update={"reference": REFERENCE.experiment, "users": (8,)})
    return params.model_copy(update={"objective": objective, "comparison": comparison})


def says(sentence: str | None, *parts: str) -> bool:
    return sentence is not None and all(part in sentence for part in parts)


def test_one_is_fastest_with_its_rate_its_ratio_and_what_limits_it(snapshot: Snapshot) -> None:
    rows = [compared("e1_baseline", 20.0, 2), compared(CANDIDATE, 60.0, 1)]
    fastest, limit = answer(replace(snapshot, compared=rows))
    assert says(
        fastest, "`candidate` is fastest, with 95% certainty", "60.0", "3.00 (2.85 to 3.15)", "8 users"
    )
    share = snapshot.explanation.diagnoses[CANDIDATE].share
    pairs = itertools.pairwise(snapshot.explanation.bounds[CANDIDATE])
    [(upper, lower)] = [(upper, lower) for upper, lower in pairs if lower.share == share]
    assert says(limit, f"from {upper.name} to {lower.name}", f"{lower.rate_rps:.1f} of {upper.rate_rps:.1f}")


def test_a_tie_is_said_and_no_certainty_where_nothing_was_ranked_behind(snapshot: Snapshot) -> None:
    assert says(answer(snapshot)[0], "`e4_half` does", "`candidate`", "not resolved")
    alone = [compared("e1_baseline", 20.0, 1), compared(CANDIDATE, None, None)]
    assert "certainty" not in answer(replace(snapshot, compared=alone))[0]
    assert "times" not in answer(replace(snapshot, compared=alone))[0]  # the reference itself


def test_where_the_reference_answered_nothing_nothing_is_compared(snapshot: Snapshot, params: Params) -> None:
    [only] = answer(replace(snapshot, compared=[compared("e1_baseline", None, None)]))
    assert verdict([SILENT], params)[0] == only


def test_the_fastest_and_the_one_to_ship_may_differ(params: Params) -> None:
    said = verdict([REFERENCE, FAST, SHIPPED], params)
    assert says(said[0], "e4_half", "90.0", "4.50 (4.27 to 4.73)")
    assert says(said[-1], "candidate, 300 ms", "500 ms")
    assert len(said) == 2


def test_equals_within_the_objective_are_named_together(params: Params) -> None:
    equal = [replace(row, p95_ms=300.0) for row in (compared("e5_mixed", 88.0, 1), FAST)]
    assert says(verdict([REFERENCE, *equal], params)[-1], "e4_half", "e5_mixed", "not resolved")


@pytest.mark.parametrize(
    "row", [replace(SHIPPED, rank=1, failed=7), replace(SHIPPED, p95_ms=None), replace(SHIPPED, p95_ms=501.0)]
)
def test_who_fails_or_is_late_does_not_keep_to_the_objective(params: Params, row: ComparisonRow) -> None:
    assert says(verdict([REFERENCE, row], params)[-1], "e1_baseline, 400 ms")
    assert says(verdict([row], params)[-1], "None is known")


@pytest.mark.parametrize(
    ("row", "parts"),
    [
        (replace(SHIPPED, failed=7), ("failed", "candidate (7)")),
        (SILENT, ("Without an answer", "e2_batching")),
        (replace(FAST, rank=None), ("Not ranked", "e4_half")),
        (replace(FAST, earlier=True), ("earlier run", "e4_half")),
        (
            replace(FAST, efficiency=1.12, efficiency_low=1.07, efficiency_high=1.18),
            ("error of measuring", "1.12 (1.07 to 1.18)"),
        ),
    ],
)
def test_what_else_must_be_known_is_said(row: ComparisonRow, parts: tuple[str, ...]) -> None:
    [sentence] = caveats([REFERENCE, row])
    assert says(sentence, *parts)
    assert caveats([REFERENCE]) == []
    [few] = caveats([replace(REFERENCE, rounds=3)])
    assert says(few, "3 rounds")


def test_names_are_explained_and_what_the_fastest_costs(snapshot: Snapshot) -> None:
    rows = [compared("e1_baseline", 20.0, 2), compared(CANDIDATE, 60.0, 1)]
    text = terms(replace(snapshot, compared=rows, lead=None))
    assert says(text, "`e1_baseline`", "`serve:`", "4.5 s", "400 MiB", "100 ms")
    assert "MiB" not in terms(replace(snapshot, compared=[compared("e1_baseline", None, None)]))


def test_the_lead_over_the_second_has_its_interval(snapshot: Snapshot) -> None:
    rates = {"e1_baseline": 20.0, CANDIDATE: 60.0, "e4_half": 90.0}
    rows = [compared(name, rate, 3 - number) for number, (name, rate) in enumerate(rates.items())]
    noise = {CANDIDATE: (1.0, 1.1, 0.91, 1.0, 1.0, 1.0)}
    turns = [
        TurnRow(number, users, name, rate * noise.get(name, (1.0,) * 6)[number], 9, 0)
        for users in (1, rows[0].users)
        for number in range(6)
        for name, rate in rates.items()
    ]
    lead = lead_of(rows, turns, "e1_baseline")
    assert lead is not None
    assert (lead.fastest, lead.second) == ("e4_half", CANDIDATE)
    low, middle, high = lead.ratio.low, lead.ratio.ratio, lead.ratio.high
    assert low is not None
    assert high is not None
    assert middle == pytest.approx(1.5, rel=0.01)
    assert 1.3 < low < middle < high < 1.7
    text = terms(replace(snapshot, compared=rows, lead=lead))
    assert says(text, "`e4_half` serves", f"{middle:.2f} ({low:.2f} to {high:.2f})", "`candidate`")
    assert lead_of(rows[:1], turns, "e1_baseline") is None


def test_a_level_that_is_not_valid_is_said(snapshot: Snapshot) -> None:
    assert says(finding("e2_batching", snapshot), "not valid")
    assert says(finding("e3_workers", snapshot), "failed requests")


@pytest.mark.parametrize(
    ("changes", "parts", "advised"),
    [
        ({}, ("`precision: int8`", "2.00 (1.90 to 2.10)"), True),
        ({"over_serve_low": 0.9}, ("2.00 (0.90 to 2.10)", "not resolved"), False),
        ({"incumbent": True}, ("nothing faster",), False),
        ({"goal": "capacity"}, ("`precision: int8`", "within the objective"), True),
    ],
)
def test_what_the_search_found_is_what_to_try(
    snapshot: Snapshot, changes: dict[str, Any], parts: tuple[str, ...], advised: bool
) -> None:
    step = next_step(replace(snapshot, tuned=tuned(**changes)))
    assert says(step, *parts)
    assert says(step, "tune --apply") is advised
    assert not says(step, "309")  # a capacity


def test_what_was_applied_is_not_to_try_and_without_a_search_that_is(snapshot: Snapshot) -> None:
    serve = snapshot.params.serve.model_copy(update={"precision": "int8", "max_batch_size": 4})
    applied = replace(snapshot, tuned=tuned(), params=snapshot.params.model_copy(update={"serve": serve}))
    assert not says(next_step(applied), "Try")
    assert says(next_step(snapshot), "`make tune`")
    assert next_step(replace(snapshot, label="HEAD~1")) is None
