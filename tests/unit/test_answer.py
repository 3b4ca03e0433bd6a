"""The answer in three sentences, and what to try next: short, with figures, and with its doubts."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from servebench.benchmark.capacity_rows import CapacityResult
from servebench.benchmark.rows import TurnRow
from servebench.params import CANDIDATE
from servebench.report.answer import (
    MOST_WORDS,
    answer,
    capacity_finding,
    finding,
    next_step,
    terms,
    tuned_price,
)
from servebench.report.comparison import lead_of
from servebench.report.snapshot import Snapshot, read_snapshot
from servebench.report.tune import Tuned
from servebench.tune.rows import TuneRow
from tests.support.capacity import CAPACITY
from tests.support.results_project import write_project
from tests.support.synthetic_results import compared

WINNER = TuneRow(
    name="int8 direct 2x1 b4",
    status="winner",
    incumbent=False,
    precision="int8",
    compiled=True,
    preprocess="torchvision",
    transport="direct",
    workers_per_device=2,
    threads_per_worker=1,
    max_batch_size=4,
    batch_timeout_s=0.0,
    keep_freed_memory=False,
    predicted_rps=300.0,
    rate_rps=310.0,
    ratio=1.0,
    ratio_low=1.0,
    ratio_high=1.0,
    over_serve=2.0,
    over_serve_low=1.9,
    over_serve_high=2.1,
    p95_ms=30.0,
    memory_mib=600.0,
    agreement=1.0,
    failed=0,
    rounds=30,
    lost_after=None,
    capacity_rps=None,
    capacity_low_rps=None,
    capacity_high_rps=None,
    reason="",
)


@pytest.fixture
def snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Snapshot:
    monkeypatch.chdir(tmp_path)
    write_project()
    return read_snapshot()


def tuned(goal: str = "throughput", **changes: Any) -> Tuned:
    """A search whose winner takes 309 requests a second."""
    found = {"goal": goal, "winner": {"precision": "int8", "max_batch_size": 4}}
    capacity = {
        "capacity_status": "resolved",
        "capacity_rps": 309.05,
        "capacity_low_rps": 297.61,
        "capacity_high_rps": 320.94,
    }
    own = {key: changes.pop(key) for key in capacity if key in changes}
    return Tuned(found | capacity | own, [replace(WINNER, **changes)], [])


def test_one_is_fastest(snapshot: Snapshot) -> None:
    rows = [compared("e1_baseline", 20.0, 2), compared(CANDIDATE, 60.0, 1)]
    fastest, limit, traffic = answer(replace(snapshot, compared=rows))
    assert fastest == (
        "Of 2 configurations `candidate` is fastest, with 95% certainty: 60.0 requests/s from 8 users, "
        "3.00 (2.85 to 3.15) times `e1_baseline`."
    )
    assert limit.startswith("What limits `candidate`: ")
    assert re.search(r"; \w.* \d[\d.]* of the .* \d[\d.]* images/s \(\d+%\)\.$", limit)
    assert traffic == "How much traffic `candidate` can take is not measured: `make capacity`."


def test_a_tie_is_said(snapshot: Snapshot) -> None:
    assert answer(snapshot)[0].endswith("; whether it or 1 other is fastest is not resolved.")


def test_the_reference_needs_no_ratio(snapshot: Snapshot) -> None:
    rows = [compared("e1_baseline", 20.0, 1), compared(CANDIDATE, 10.0, 2)]
    first = answer(replace(snapshot, compared=rows))[0]
    assert (
        first
        == "Of 2 configurations `e1_baseline` is fastest, with 95% certainty: 20.0 requests/s from 8 users."
    )


def test_one_that_nothing_was_ranked_behind_is_fastest_without_certainty(snapshot: Snapshot) -> None:
    rows = [compared("e1_baseline", 20.0, 1), compared(CANDIDATE, None, None)]
    assert answer(replace(snapshot, compared=rows))[0].startswith(
        "Of 2 configurations `e1_baseline` is fastest: "
    )


def test_nothing_answered(snapshot: Snapshot) -> None:
    rows = [compared("e1_baseline", None, None)]
    assert answer(replace(snapshot, compared=rows)) == [
        "No configuration could be compared: the reference answered nothing."
    ]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {},
            "With random arrivals `x` takes 300 requests/s (290 to 310), 95% within 100 ms; 1,000 need 5 "
            "machines, 1 of them spare.",
        ),
        (
            {"status": "unresolved", "reason": "120 s are over"},
            "With random arrivals `x` takes 300 requests/s (290 to 310), 95% within 100 ms, not resolved: "
            "120 s are over.",
        ),
        (
            {"status": "unresolved", "reason": "120 s are over", "unsteady": 5},
            "With random arrivals `x` takes 300 requests/s (290 to 310), 95% within 100 ms, not resolved: in "
            "5 of 8 probes the machine was slow.",
        ),
        (
            {"status": "unresolved", "capacity_rps": None},
            "The rate at which `x` keeps 95% within 100 ms is not resolved.",
        ),
        ({"status": "above_range"}, "`x` takes at least 290 requests/s with 95% within 100 ms."),
        ({"status": "slo_unreachable"}, "`x` cannot keep 95% within 100 ms at any rate."),
    ],
)
def test_a_capacity_in_a_sentence(changes: dict[str, Any], text: str) -> None:
    assert capacity_finding("x", replace(CAPACITY, **changes)) == text


def test_the_fastest_ones_capacity_or_else_the_candidates_or_the_winners(snapshot: Snapshot) -> None:
    known = CapacityResult(CAPACITY, [], None)
    assert "`candidate` takes 300" in answer(replace(snapshot, capacities={CANDIDATE: known}))[2]
    assert answer(replace(snapshot, tuned=tuned()))[2] == (
        "With random arrivals, 95% within 100 ms, the search's winner takes 309 requests/s (298 to 321)."
    )


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {},
            "Try next: `servebench tune --apply`, which sets `precision: int8`, for 2.00 (1.90 to 2.10) "
            "times the candidate's rate.",
        ),
        (
            {"over_serve_low": 0.9},
            "The search found `int8 direct 2x1 b4`, 2.00 (0.90 to 2.10) times the candidate: not resolved.",
        ),
        ({"incumbent": True}, "The search found nothing faster than the candidate as it was."),
        (
            {"goal": "capacity"},
            "Try next: `servebench tune --apply`, which sets `precision: int8`: with random arrivals it "
            "takes 309 requests/s (298 to 321).",
        ),
        (
            {"goal": "capacity", "capacity_status": "unresolved"},
            "Try next: `servebench tune --apply`, which sets `precision: int8`: with random arrivals it "
            "takes 309 requests/s (298 to 321), not resolved.",
        ),
        (
            {
                "goal": "capacity",
                "capacity_status": "above_range",
                "capacity_rps": None,
                "capacity_high_rps": None,
            },
            "Try next: `servebench tune --apply`, which sets `precision: int8`: with random arrivals it "
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
            "Try next: `servebench tune --apply`, which sets `precision: int8`, for 2.00 (1.90 to 2.10) "
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


def test_names_are_explained_and_what_the_fastest_costs(snapshot: Snapshot) -> None:
    rows = [compared("e1_baseline", 20.0, 2), compared(CANDIDATE, 60.0, 1)]
    text = terms(replace(snapshot, compared=rows, lead=None))
    assert text.startswith("Ratios are taken to `e1_baseline`. `candidate` is the section `serve:`")
    assert re.search(
        r"`candidate` is ready [\d.]+ s after its start, takes [\d,]+ MiB, and answers 95% ", text
    )
    assert "is ready" not in terms(replace(snapshot, compared=[compared("e1_baseline", None, None)]))


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
    times = f"{middle:.2f} ({low:.2f} to {high:.2f})"
    assert text.startswith(f"`e4_half` serves {times} times the rate of the second, `candidate`. Ratios are")
    assert lead_of(rows[:1], turns, "e1_baseline") is None


def test_what_was_applied_is_not_to_try(snapshot: Snapshot) -> None:
    serve = snapshot.params.serve.model_copy(update={"precision": "int8", "max_batch_size": 4})
    applied = replace(snapshot, tuned=tuned(), params=snapshot.params.model_copy(update={"serve": serve}))
    assert next_step(applied) == "`serve:` is what the search found: `int8 direct 2x1 b4`."


def test_of_a_revision_nothing_is_said_that_git_does_not_hold(snapshot: Snapshot) -> None:
    revision = replace(snapshot, label="HEAD~1")
    assert answer(revision)[2] == "Capacities and searches are shown of the present tree only."
    assert next_step(revision) is None


def test_without_a_search_that_is_what_to_try(snapshot: Snapshot) -> None:
    assert next_step(snapshot).startswith(
        "Try next: `make tune`, which searches for a faster `serve:` and is not tried"
    )


def test_every_sentence_is_short(snapshot: Snapshot) -> None:
    known = {
        CANDIDATE: CapacityResult(replace(CAPACITY, status="unresolved", reason="120 s are over"), [], None)
    }
    one = [compared("e1_baseline", 20.0, 2), compared(CANDIDATE, 60.0, 1)]
    sentences = [finding(result.name, snapshot) for result in snapshot.results]
    for shown in (
        snapshot,
        replace(snapshot, compared=one),
        replace(snapshot, tuned=tuned()),
        replace(snapshot, tuned=tuned("capacity"), capacities=known),
    ):
        sentences += [*answer(shown), next_step(shown) or ""]
    for sentence in sentences:
        assert len(sentence.split()) <= MOST_WORDS, sentence


def test_a_level_that_is_not_valid_is_said(snapshot: Snapshot) -> None:
    assert finding("e2_batching", snapshot).endswith("; its best level is not valid.")
    assert finding("e3_workers", snapshot) == "`e3_workers`: failed requests."
