"""The comparison in a few numbers: rates, the fastest, and the fastest to ship."""

from __future__ import annotations

import json

import pytest

from servebench.report.summary import (
    best_configurations,
    best_within,
    rates,
    short_names,
    significant,
    verdict,
)
from tests.support.synthetic_results import level, result

SLOW = level(1, 20.0, 60.0)
FAST = level(32, 90.0, 700.0)
MIDDLE = level(8, 60.0, 300.0)
CANDIDATE = result("candidate", [level(8, 512.34, 10.0)], best=level(8, 512.34, 10.0))


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
        (None, "null"),
    ],
)
def test_rates_are_rounded_to_three_significant_digits(value: float | None, text: str) -> None:
    assert json.dumps(significant(value)) == text


def test_the_summary_has_a_rate_by_short_name_candidate_first() -> None:
    failed = result("e2_failed", [level(1, 20.0, invalid_reason="3 failed")])
    first = result("e1_base", [level(1, 35.249)], best=level(1, 35.249))
    found = rates([first, failed, CANDIDATE])
    assert list(found.items()) == [("candidate", 512.0), ("e1", 35.2), ("e2", None)]


def test_the_fastest_is_the_candidate_where_it_is() -> None:
    first = result("e1_base", [SLOW], best=SLOW)
    found = best_configurations([first, CANDIDATE], slo_p95_ms=400.0)
    assert found["best"] == found["best_within_slo"] == "candidate"
    assert verdict(found, 400.0)[0] == "Fastest: candidate, 25.62 times the rate of the first."


def test_the_fastest_and_the_one_to_ship_may_differ() -> None:
    first = result("e1_base", [SLOW], best=SLOW)
    second = result("e2_more", [SLOW, MIDDLE, FAST], best=FAST)
    slow = result("candidate", [SLOW], best=SLOW)
    found = best_configurations([first, second, slow], slo_p95_ms=400.0)
    assert found == {
        "best": "e2_more",
        "best_gain": 4.5,
        "best_within_slo": "e2_more",
        "within_slo_rps": 60.0,
        "within_slo_users": 8,
    }
    assert verdict(found, 400.0) == [
        "Fastest: e2_more, 4.50 times the rate of the first.",
        "Fastest with p95 below 400 ms: e2_more, 60.0 req/s at 8 users.",
    ]


def test_an_objective_that_nobody_keeps_is_said() -> None:
    found = best_configurations([result("e1_base", [FAST], best=FAST)], slo_p95_ms=50.0)
    assert found["best"] == "e1_base"
    assert found["best_within_slo"] is found["within_slo_rps"] is found["within_slo_users"] is None
    assert verdict(found, 50.0)[1] == "No configuration keeps p95 below 50 ms at any level."


def test_an_invalid_or_unknown_latency_keeps_no_objective() -> None:
    unstable = level(8, 60.0, 300.0, invalid_reason="unstable")
    assert best_within(result("a", [unstable]), 400.0) is None
    assert best_within(result("a", [level(8, 60.0, None)]), 400.0) is None
    assert best_within(result("a", [unstable, MIDDLE, SLOW]), 400.0) == MIDDLE


def test_without_a_valid_level_nothing_is_best() -> None:
    unstable = level(1, 20.0, 60.0, invalid_reason="unstable")
    failed = result("e1_base", [level(1, 20.0, 60.0, invalid_reason="3 failed")])
    doubtful = result("e2_more", [unstable], best=unstable)
    found = best_configurations([failed, doubtful], 400.0)
    assert rates([failed, doubtful, CANDIDATE])["e2"] == 20.0
    assert found["best"] is None
    assert found["best_within_slo"] is None
    assert verdict(found, 400.0) == ["No configuration has a valid level."]
