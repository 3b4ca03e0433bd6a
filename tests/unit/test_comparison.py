"""Ratios and ranks of what was measured in turn, against truths that are known."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pytest
from scipy.special import stdtrit

from litmeter.stats.ratios import (
    Ratio,
    block_edges,
    difference,
    over_runs,
    percentile_ratio,
    ranks,
    ratio,
    ratios,
)

TRUTH = {"a": 1.0, "b": 1.05, "c": 1.2}
TURN_S, OVERHEAD_S = 1.0, 0.6


def work_by(times: np.ndarray, slow_first: bool, dwell_s: float) -> np.ndarray:
    """Work done by each time on a machine that is 1.4 times slower in every second ``dwell_s``."""
    whole, rest = np.divmod(times, dwell_s)
    first, second = (1 / 1.4, 1.0) if slow_first else (1.0, 1 / 1.4)
    pairs, odd = np.divmod(whole, 2)
    done = pairs * (first + second) * dwell_s + odd * first * dwell_s
    return done + rest * np.where(odd == 0, first, second)


def measured(
    truth: Mapping[str, float], seed: int, seconds: float = 240.0, dwell_s: float = 20.0
) -> dict[str, list[float | None]]:
    """Rates in rounds, in a random order and its reverse, with 3% noise of each turn."""
    rng = np.random.default_rng(seed)
    rates: dict[str, list[float | None]] = {name: [] for name in truth}
    order, slow_first, now = list(truth), bool(rng.integers(2)), float(rng.uniform(0, dwell_s))
    ends, number = now + seconds, 0
    while now + len(truth) * (TURN_S + OVERHEAD_S) < ends:
        order = list(rng.permutation(list(truth))) if number % 2 == 0 else order[::-1]
        for name in order:
            opened = now + OVERHEAD_S
            before, after = work_by(np.array([opened, opened + TURN_S]), slow_first, dwell_s)
            rates[name].append(truth[name] * (after - before) / TURN_S * math.exp(0.03 * rng.normal()))
            now = opened + TURN_S
        number += 1
    return rates


def test_intervals_hold_the_truth_and_orders_are_right() -> None:
    """Services 1 : 1.05 : 1.2, slowed down by 1.4 in every second stretch of 20 s: 40 runs."""
    held, wrong = 0, 0
    for seed in range(40):
        rates = measured(TRUTH, seed)
        found, placed = ratios(rates, "a"), ranks(rates, "a")
        held += all(one.low <= TRUTH[name] <= one.high for name, one in found.items())  # type: ignore[operator]
        wrong += any(placed[x] < placed[y] and TRUTH[x] <= TRUTH[y] for x in TRUTH for y in TRUTH)
    assert held >= 36
    assert wrong <= 3


DIFFERENT, ONE_WILD = [0.06, 0.06, 0.08, 0.12, 0.15, 0.2, 0.04, 0.04], [0.05] * 7 + [0.3]


@pytest.mark.parametrize(("deviations", "rounds"), [(DIFFERENT, 6), (ONE_WILD, 4)])
def test_moderated_intervals_hold_all_truths_though_noises_differ(
    deviations: list[float], rounds: int
) -> None:
    """In 95% of runs, less what 200 runs may be off; and they are narrower than Student's."""
    rng, runs, held, narrower = np.random.default_rng(0), 200, 0, []
    for _ in range(runs):
        logs = rng.normal(0, 1, (len(deviations), rounds)) * np.array(deviations)[:, None]
        rates = {str(number): list(np.exp(own)) for number, own in enumerate(logs)}
        found = [one for name, one in ratios(rates, "0").items() if name != "0"]
        held += all(one.low <= 1 <= one.high for one in found)  # type: ignore[operator]
        narrower.append(
            np.median(
                [
                    math.log(one.high / one.low) / students_width(own - logs[0])  # type: ignore[operator]
                    for one, own in zip(found, logs[1:], strict=True)
                ]
            )
        )
    assert held / runs > 0.92
    assert np.mean(narrower) < 0.95


def test_intervals_hold_all_truths_though_neighbouring_rounds_are_alike() -> None:
    """Correlated by 0.5: as independent rounds they would hold them in 70% of runs."""
    rng, runs, rounds, held, wrong = np.random.default_rng(1), 200, 28, 0, 0
    for _ in range(runs):
        rates = {}
        for name, deviation in zip("abcd", (0.1, 0.05, 0.05, 0.08), strict=True):
            noise = rng.normal(size=rounds)
            for number in range(1, rounds):
                noise[number] = 0.5 * noise[number - 1] + math.sqrt(0.75) * noise[number]
            rates[name] = list(np.exp(deviation * noise))
        held += all(one.low <= 1 <= one.high for one in ratios(rates, "a").values())  # type: ignore[operator]
        wrong += len(set(ranks(rates, "a").values())) > 1
    assert held / runs > 0.88
    assert wrong / runs < 0.16


def test_blocks_are_alike_and_a_round_more_changes_them_little() -> None:
    """Ten of them for twenty rounds and five for twenty-one made t jump by a fifth."""
    for rounds in range(2, 120):
        lengths = np.diff(block_edges(range(rounds)))
        assert (lengths.sum(), len(lengths)) == (rounds, min(rounds, 10))
        assert lengths.max() - lengths.min() <= 1


def test_the_slow_who_pause_in_between_widen_no_interval_of_the_others() -> None:
    """Four that take a noisy turn in every fourth round, and three that are steady."""
    rng, held, widths = np.random.default_rng(0), 0, []
    for _ in range(200):
        logs = {name: rng.normal(0, 0.03, 24) for name in ("reference", "a", "b", "c")}
        rates: dict[str, list[float | None]] = {name: list(np.exp(own)) for name, own in logs.items()}
        for number in range(4):
            rates[str(number)] = [None] * 24
            rates[str(number)][::4] = list(np.exp(rng.normal(0, 0.25, 6)))
        found = ratios(rates, "reference")
        held += all(one.low <= 1 <= one.high for one in found.values())  # type: ignore[operator]
        widths.append(found["a"].high - found["a"].low)  # type: ignore[operator]
    assert held / 200 > 0.92
    assert np.median(widths) < 0.06


def test_who_left_halfway_keeps_its_interval_though_others_go_on() -> None:
    rng = np.random.default_rng(0)
    noise = np.exp(rng.normal(0, 0.1, (4, 60)))
    rates: dict[str, list[float | None]] = dict(zip("abcd", map(list, noise), strict=True))
    rates["d"][21:] = [None] * 39
    until_then = {name: own[:21] for name, own in rates.items()}
    assert ratio(rates, "d", "a", "a") == ratio(until_then, "d", "a", "a")


def test_groups_moderate_each_other() -> None:
    """Each has rounds of its own with the reference: two alone would say little about what is usual."""
    rng, names = np.random.default_rng(0), ("a", "b", "c", "d")
    rates: dict[str, list[float | None]] = {"reference": list(np.exp(rng.normal(0, 0.1, 16)))}
    for number, name in enumerate(names):
        rates[name] = [None] * 16
        rates[name][4 * number : 4 * number + 4] = list(np.exp(rng.normal(0, 0.1, 4)))
    alone = {name: rates[name] for name in ("reference", "a")}
    assert difference(rates, "a", "reference", "reference").freedom > 5
    assert difference(alone, "a", "reference", "reference").freedom == 3


def test_who_is_far_behind_is_not_moderated_by_others_though_repeated_runs_add_up() -> None:
    """Two runs of 27 rounds each, of which it had five: what is usual for the others is not for it."""
    rng = np.random.default_rng(0)
    rates: dict[str, list[float | None]] = {name: list(np.exp(rng.normal(0, 0.03, 54))) for name in "abcd"}
    rates["far"] = [float(np.exp(rng.normal(-2, 0.8))) if number % 27 < 5 else None for number in range(54)]
    alone = {name: rates[name] for name in ("a", "far")}
    assert difference(rates, "far", "a", "a") == difference(alone, "far", "a", "a")


def students_width(logs: np.ndarray) -> float:
    """Of the simultaneous interval of one of seven."""
    freedom = len(logs) - 1
    return float(
        2 * stdtrit(freedom, 1 - (1 - 0.95 ** (1 / 7)) / 2) * logs.std(ddof=1) / math.sqrt(len(logs))
    )


@pytest.mark.parametrize("count", [3, 8])
def test_several_equals_share_a_rank_in_nineteen_of_twenty_runs(count: int) -> None:
    """Less what 250 runs may be off; by ``count`` - 1 tests at 5%, 8% of runs would tell 8 equals apart."""
    rng, runs, apart = np.random.default_rng(2), 250, 0
    for _ in range(runs):
        logs = 0.06 * rng.normal(size=(count, 17))
        rates = {str(number): list(np.exp(own)) for number, own in enumerate(logs)}
        apart += set(ranks(rates, "0").values()) != {1}
    assert apart / runs < 0.067


def test_drift_over_minutes_hides_no_difference_of_a_fifth() -> None:
    for seed in range(20):
        placed = ranks(measured(TRUTH, seed, dwell_s=150.0), "a")
        assert placed["c"] == 1
        assert placed["a"] == 3 or placed["a"] == placed["b"] == 2


def test_without_common_rounds_the_reference_stands_between() -> None:
    """Measured in different runs, on a machine that was twice as fast in the second."""
    rng = np.random.default_rng(0)
    noise = np.exp(rng.normal(0, 0.02, (4, 10)))
    rates = {
        "reference": [*(10 * noise[0]), *(20 * noise[1])],
        "earlier": [*(30 * noise[2]), *[None] * 10],
        "now": [*[None] * 10, *(60 * noise[3])],
    }
    found = ratio(rates, "now", "earlier", "reference")
    assert found.low is not None
    assert found.high is not None
    assert found.low < 1 < found.high
    assert found.high / found.low < 1.1
    assert ranks(rates, "reference") == {"now": 1, "earlier": 1, "reference": 3}


def test_no_rank_is_below_another_where_the_interval_of_their_ratio_holds_1() -> None:
    """In few rounds the last of the tests in steps may tell apart what the intervals do not."""
    rng, doubtful = np.random.default_rng(4), 0
    for _ in range(100):
        logs = 0.2 * rng.normal(size=(8, 4)) + np.array([[0.0], *[[0.8]] * 6, [1.5]])
        rates = {str(number): list(np.exp(own)) for number, own in enumerate(logs)}
        placed, lead = ranks(rates, "0"), ratios(rates, "7", "0")
        for name, own in lead.items():
            assert own.high is not None
            doubtful += name != "7" and own.high >= 1
            assert placed[name] == 1 or own.high < 1
    assert doubtful


def test_one_round_gives_a_ratio_without_an_interval() -> None:
    found = ratio({"a": [10.0], "b": [20.0]}, "b", "a", "a")
    assert (found.ratio, found.low, found.high, found.resolved) == (2.0, None, None, False)
    assert ranks({"a": [10.0], "b": [20.0]}, "a") == {"b": 1, "a": 1}


def test_nothing_in_common_is_an_error() -> None:
    with pytest.raises(ValueError, match="share no round"):
        ratio({"a": [1.0, None], "b": [None, 1.0], "r": [None, 1.0]}, "a", "b", "r")


def test_who_leads_by_earlier_rounds_is_not_faster_than_who_beats_it() -> None:
    """Earlier the reference was slow, which raises "kept"; in common rounds "new" is 17% faster."""
    noise = [1.0, 1.01, 0.99] * 5
    rates: dict[str, list[float | None]] = {
        "reference": [10.0] * 30 + [14.0] * 15,
        "kept": [90.0 * own for own in noise * 2] + [84.0 * own for own in noise],
        "new": [None] * 30 + [98.0 * own for own in noise[::-1]],
    }
    placed = ranks(rates, "reference")
    assert placed["new"] == 1
    assert placed["reference"] == 3


def test_equals_are_told_apart_by_their_p95_in_few_runs_and_a_quarter_is_seen() -> None:
    """Batches of eight that share their latency, on a machine that changes its speed by 1.4."""
    rng, held, seen = np.random.default_rng(0), 0, 0
    for _ in range(200):
        speeds = rng.choice([1.0, 1.4], 21)
        twins = [
            [np.repeat(50 * speed * np.exp(rng.normal(0, 0.12, 6)), 8) for speed in speeds] for _ in range(2)
        ]
        one, other = (dict(enumerate(each)) for each in twins)
        found = percentile_ratio(one, other, 95)
        slower = percentile_ratio({number: 1.5 * own for number, own in one.items()}, other, 95)
        held += found.low <= 1 <= found.high  # type: ignore[union-attr, operator]
        seen += slower.low > 1  # type: ignore[union-attr, operator]
    assert held / 200 > 0.91
    assert seen / 200 > 0.9
    assert percentile_ratio({0: np.ones(129)}, {0: np.ones(200)}, 95) is None


def test_an_interval_over_runs_holds_what_runs_vary_about() -> None:
    """Runs that differ by 7% and have intervals of 3% themselves: four of them."""
    rng, held = np.random.default_rng(0), 0
    for _ in range(400):
        logs = rng.normal(0, 0.07, 4) + rng.normal(0, 0.015, 4)
        runs = [Ratio(math.exp(log), math.exp(log - 0.03), math.exp(log + 0.03)) for log in logs]
        found = over_runs(runs)
        held += found.low <= 1 <= found.high  # type: ignore[union-attr, operator]
    assert 0.92 < held / 400 < 0.98
    assert over_runs(runs[:2]) is None


@pytest.mark.parametrize(
    ("half", "error"),
    [
        (
            0.01,
            0.01 / math.sqrt(3),
        ),  # more than their intervals say: Student's t about the mean
        (0.2, 0.1 / math.sqrt(3)),  # or agree by chance: never narrower than by their own intervals
    ],
)
def test_the_interval_over_runs_is_that_of_the_literature(half: float, error: float) -> None:
    runs = [Ratio(*np.exp([log, log - half, log + half])) for log in (0.00, 0.01, 0.02)]
    found = over_runs(runs)
    assert found is not None
    assert found.high is not None
    assert found.ratio == pytest.approx(math.exp(0.01))
    assert math.log(found.high) == pytest.approx(0.01 + 4.302653 * error, rel=1e-4)
