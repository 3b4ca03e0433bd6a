"""Who leaves a comparison, and when."""

from __future__ import annotations

import numpy as np

from litmeter.measure.comparison import Comparison, Turn

USERS = 4


def turns_of(rates: dict[str, list[float | None]], bound_rps: float = 0.5) -> list[Turn]:
    return [
        Turn(number, USERS, name, rate, np.array([1.0]), bound_rps=None if rate else bound_rps)
        for name, own in rates.items()
        for number, rate in enumerate(own)
    ]


def test_the_slow_leave_and_the_reference_stays() -> None:
    noise = [1.0, 1.01, 0.99, 1.0] * 4
    means = {"reference": 16.0, "fast": 100.0, "near": 90.0, "slow": 20.0, "beside the reference": 14.0}
    rates: dict[str, list[float | None]] = {
        **{name: [mean * own for own in noise] for name, mean in means.items()},
        "crawling": [7.0, 6.0, 7.0, 1.0] * 4,
        "silent": [None] * 16,
    }
    far = {"crawling", "silent"}
    below_half = {"slow", "beside the reference", *far}
    for rounds, gone in ((1, set()), (3, set()), (4, far), (15, far), (16, below_half)):
        first = {name: by_round[:rounds] for name, by_round in rates.items()}
        comparison = Comparison("reference", list(rates), turns_of(first))
        assert comparison.far_behind(USERS) == dict.fromkeys(far, rounds)
        comparison.drop_slow([USERS])
        assert comparison.dropped == dict.fromkeys(gone, rounds)
        assert comparison.remaining == [name for name in rates if name not in gone]


def test_the_slow_stay_while_their_own_ratio_is_not_known_well() -> None:
    rates: dict[str, list[float | None]] = {
        "reference": [16.0, 16.1] * 8,
        "fast": [100.0, 101.0] * 8,
        "wobbling": [20.0, 20.0, 11.0, 11.0] * 4,
    }
    comparison = Comparison("reference", list(rates), turns_of(rates))
    comparison.drop_slow([USERS])
    assert comparison.dropped == {}


def test_luck_in_one_round_keeps_nobody_who_is_far_behind() -> None:
    rates: dict[str, list[float | None]] = {
        "reference": [25.0, 26.0, 25.0, 25.0],
        "fast": [290.0, 294.0, 296.0, 293.0],
        "lucky once": [36.0, 6.0, None, 6.0],
    }
    comparison = Comparison("reference", list(rates), turns_of(rates))
    comparison.drop_slow([USERS])
    assert comparison.dropped == {"lucky once": 4}


def test_a_round_without_an_answer_counts_as_what_the_rate_was_below() -> None:
    """Whoever takes longer than its turn may be as fast as users over the turn: that is not far behind."""
    rates: dict[str, list[float | None]] = {"reference": [10.0] * 4, "fast": [12.0] * 4, "large": [None] * 4}
    for bound_rps, far in ((1.3, {}), (0.5, {"large": 4})):
        comparison = Comparison("reference", list(rates), turns_of(rates, bound_rps))
        assert comparison.far_behind(USERS) == far


def test_those_of_the_next_group_do_not_leave_unmeasured() -> None:
    rates: dict[str, list[float | None]] = {
        "reference": [10.0, 10.1, 9.9, 10.0],
        "fast": [100.0, 101.0, 99.0, 100.0],
    }
    comparison = Comparison("reference", [*rates, "waiting"], turns_of(rates))
    comparison.drop_slow([USERS])
    assert comparison.remaining == ["reference", "fast", "waiting"]


def test_who_is_slow_at_one_load_alone_stays() -> None:
    means = {"reference": 10.0, "fast": 100.0, "slow at few": 90.0, "slow at both": 1.0}
    at_few = turns_of({name: [mean] * 4 for name, mean in (means | {"slow at few": 1.0}).items()})
    at_many = [
        Turn(number, 8 * USERS, name, mean, np.array([1.0]))
        for name, mean in means.items()
        for number in range(4)
    ]
    comparison = Comparison("reference", list(means), at_few + at_many)
    comparison.drop_slow([USERS, 8 * USERS])
    assert comparison.dropped == {"slow at both": 4}


def test_who_answers_only_where_the_reference_does_not_leaves() -> None:
    rates: dict[str, list[float | None]] = {"reference": [10.0, None] * 4, "other": [None, 20.0] * 4}
    comparison = Comparison("reference", list(rates), turns_of(rates))
    comparison.drop_slow([USERS])
    assert comparison.dropped == {"other": 8}


def test_nobody_leaves_where_nobody_answers() -> None:
    rates: dict[str, list[float | None]] = {"reference": [None] * 4, "other": [None] * 4}
    comparison = Comparison("reference", list(rates), turns_of(rates))
    comparison.drop_slow([USERS])
    assert comparison.dropped == {}
