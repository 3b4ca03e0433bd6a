"""What the report says of a search: what to try next, and what it costs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from litmeter.params import CANDIDATE
from litmeter.report.answer import next_step, tuned_price
from litmeter.report.snapshot import Snapshot
from litmeter.report.tune import sentences
from tests.support.search import WINNER, tuned
from tests.support.synthetic_results import compared


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {},
            "Try next: `litmeter tune --apply`, which sets `precision: int8`, for 2.00 (1.90 to 2.10) "
            "times the candidate's rate.",
        ),
        (
            {"over_serve_low": 0.9},
            "The search found `int8 direct 2x1 b4`, 2.00 (0.90 to 2.10) times the candidate: not resolved.",
        ),
        ({"incumbent": True}, "The search found nothing faster than the candidate as it was."),
        (
            {"goal": "capacity"},
            "Try next: `litmeter tune --apply`, which sets `precision: int8`: with random arrivals it "
            "takes 309 requests/s (298 to 321).",
        ),
        (
            {"goal": "capacity", "capacity_status": "unresolved"},
            "Try next: `litmeter tune --apply`, which sets `precision: int8`: with random arrivals it "
            "takes 309 requests/s (298 to 321), not resolved.",
        ),
        (
            {
                "goal": "capacity",
                "capacity_status": "above_range",
                "capacity_rps": None,
                "capacity_high_rps": None,
            },
            "Try next: `litmeter tune --apply`, which sets `precision: int8`: with random arrivals it "
            "takes at least 298 requests/s.",
        ),
        (
            {
                "goal": "capacity",
                "capacity_status": "slo_unreachable",
                "capacity_rps": None,
                "capacity_low_rps": None,
                "capacity_high_rps": None,
            },
            "Try next: `litmeter tune --apply`, which sets `precision: int8`, for 2.00 (1.90 to 2.10) "
            "times the candidate's rate.",
        ),
    ],
)
def test_what_the_search_found_is_what_to_try(snapshot: Snapshot, changes: dict[str, Any], text: str) -> None:
    assert next_step(replace(snapshot, tuned=tuned(**changes))) == text


def test_many_keys_that_the_search_changes_are_counted(snapshot: Snapshot) -> None:
    found = tuned()
    winner = {"precision": "int8", "max_batch_size": 16, "workers_per_device": 7, "batch_timeout_s": 0.5}
    step = next_step(replace(snapshot, tuned=replace(found, metrics=found.metrics | {"winner": winner})))
    assert step is not None
    assert "which sets 4 keys of `serve:`, for 2.00" in step


def test_the_winners_price_is_said_and_its_gain_over_the_fastest(snapshot: Snapshot) -> None:
    rows = [compared("e1_baseline", 20.0, 3), compared("e4_half", 80.0, 1), compared(CANDIDATE, 50.0, 2)]
    own = replace(snapshot, compared=rows)
    share = "The winner gives 99.0% (with 95% certainty at least 95.8%) of test photos full precision's label"
    found = tuned(agreement=0.99)
    assert tuned_price(replace(own, tuned=found)) == f"{share}."
    serve = own.params.configuration("e4_half")
    keys = {"precision": serve.precision, "max_batch_size": serve.max_batch_size}
    raced = replace(WINNER, name="other", ratio=0.8, ratio_low=0.5, ratio_high=1.0, **keys)
    assert tuned_price(replace(own, tuned=replace(found, rows=[*found.rows, raced]))) == (
        f"{share}, at 1.25 (1.00 to 2.00) times the rate of `e4_half` in the same search."
    )
    second = replace(found, rows=[replace(found.rows[0], ratio=0.98), raced])
    assert tuned_price(replace(own, tuned=second)) == (
        f"{share}, at about 1.22 times the rate of `e4_half` in the same search."
    )
    assert tuned_price(replace(own, tuned=tuned(incumbent=True))) is None
    assert tuned_price(snapshot) is None


def test_without_a_bound_the_share_stands_alone(snapshot: Snapshot) -> None:
    price = tuned_price(replace(snapshot, tuned=tuned(), changes=[]))
    assert price is not None
    assert price.startswith("The winner gives 100.0% of test photos full precision's label")


def test_what_was_applied_is_not_to_try(snapshot: Snapshot) -> None:
    serve = snapshot.params.serve.model_copy(update={"precision": "int8", "max_batch_size": 4})
    applied = replace(snapshot, tuned=tuned(), params=snapshot.params.model_copy(update={"serve": serve}))
    assert next_step(applied) == "`serve:` is what the search found: `int8 direct 2x1 b4`."


def test_without_a_search_that_is_what_to_try(snapshot: Snapshot) -> None:
    assert next_step(snapshot).startswith(
        "Try next: `make tune`, which searches for a faster `serve:` and is not tried"
    )


def test_the_gain_names_the_serve_section_that_it_was_measured_against() -> None:
    metrics = {
        "combinations": 8,
        "raced": 2,
        "rounds": 30,
        "users": 8,
        "capacity": "",
        "model_error": 0.06,
    }
    incumbent = replace(WINNER, name="full direct 2x1 b4", status="slower", incumbent=True)
    assert sentences(metrics, [WINNER, incumbent])[1] == (
        "`int8 direct 2x1 b4` won with 310.0 req/s, 2.00 (1.90 to 2.10) times `serve:`, which was "
        "`full direct 2x1 b4` then."
    )
