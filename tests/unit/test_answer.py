"""The answer in three sentences, and what to try next: short, with figures, and with its doubts."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from litmeter.benchmark.capacity import CapacityResult
from litmeter.benchmark.rows import TurnRow
from litmeter.params import CANDIDATE
from litmeter.report.answer import (
    MOST_WORDS,
    answer,
    capacity_finding,
    finding,
    next_step,
    terms,
)
from litmeter.report.comparison import lead_of
from litmeter.report.snapshot import Snapshot
from tests.support.capacity import CAPACITY
from tests.support.search import tuned
from tests.support.synthetic_results import compared


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
    assert answer(snapshot)[0].endswith("; whether it or `candidate` is fastest is not resolved.")


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


def test_of_a_revision_nothing_is_said_that_git_does_not_hold(snapshot: Snapshot) -> None:
    revision = replace(snapshot, label="HEAD~1")
    assert answer(revision)[2] == "Capacities and searches are shown of the present tree only."
    assert next_step(revision) is None


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
