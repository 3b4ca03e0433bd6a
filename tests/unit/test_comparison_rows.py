"""Results of a comparison: who has a ratio, an interval, a rank or a bound alone; pairs and verdicts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest

from litmeter.measure.comparison_rows import (
    comparison_rows,
    counted,
    over_before,
    pairs,
    rate_alone,
    rates_of,
)
from litmeter.measure.rows import ComparisonRow, TurnRow
from litmeter.report.claims import failures, partly_streamed
from litmeter.stats.records import Floats

Rounds = Mapping[str, Sequence[float | None]]


def turns_of(rates: Rounds, work: str = "served", begin: int = 0) -> list[TurnRow]:
    """One turn per rate, in rounds; without one it did at most 4.0."""
    each = [(name, number, rate) for name, own in rates.items() for number, rate in enumerate(own)]
    return [
        TurnRow(
            *(begin + turn, 0.0, 1.0, number, name, work, 8),
            **{"rate_rps": rate, "bound_rps": 4.0, "answers": 200, "failed": 1},
        )
        for turn, (name, number, rate) in enumerate(each)
    ]


def rows_of(rates: Rounds, earlier: Sequence[ComparisonRow] = ()) -> dict[str, ComparisonRow]:
    names = [*rates, *(row.experiment for row in earlier)]
    rows = comparison_rows(names, "reference", turns_of(rates), {}, 0.05, earlier)
    assert [row.experiment for row in rows] == names
    return {row.experiment: row for row in rows}


def noisy(mean: float, sd: float, seed: int, rounds: int = 12) -> list[float | None]:
    return list(mean * np.exp(np.random.default_rng(seed).normal(0, sd, rounds)))


def test_a_round_without_an_answer_leaves_a_bound_and_takes_nobodys_rank() -> None:
    """It is no small number whose logarithm counts, nor is it left out as if the others were all."""
    fitful = {"mute": [1.0, None, 1.0, None], "silent": [None] * 4, "fast": [90.0, 90.0, 90.0, None]}
    rows = rows_of({"reference": [10.0] * 4, "steady": [20.0] * 4, **fitful})
    bounds = {"mute": 0.2, "silent": 0.4, "fast": round((9**3 * 0.4) ** 0.25, 4)}
    for name, bound in bounds.items():
        row = rows[name]
        assert (row.rate_rps, row.lowest_rps, row.ratio, row.ratio_low, row.rank) == (None,) * 5
        assert (row.ratio_high, row.share_of_fastest) == (bound, None)
    assert (rows["steady"].rank, rows["reference"].rank) == (1, 2)


def test_two_rounds_of_many_give_a_ratio_without_interval_and_rank_and_two_of_two_give_all() -> None:
    rates: Rounds = {"reference": noisy(10, 0.02, 1), "fast": noisy(100, 0.02, 2), "few": [1.0, 5.0]}
    rows = rows_of(rates)
    few = rows["few"]
    assert few.rank is few.ratio_low is few.share_of_fastest is None
    expected = math.sqrt(5.0 / rates["reference"][0] / rates["reference"][1])  # type: ignore[operator]
    assert few.ratio == pytest.approx(expected, abs=1e-4)
    assert (rows["fast"].rank, rows["reference"].rank) == (1, 2)
    assert all(row.rank for row in rows_of({"reference": [10.0, 11.0], "other": [20.0, 22.0]}).values())


def test_the_share_of_the_fastest_is_paired_with_it_whatever_the_reference_did() -> None:
    reference, common = noisy(10, 0.2, 1), np.array(noisy(1, 0.3, 2), dtype=float)
    other, fast = (list(rate * common * noisy(1, 0.01, seed)) for rate, seed in ((80, 3), (100, 4)))
    row = rows_of({"reference": reference, "other": other, "fast": fast})["other"]
    assert row.share_low is not None
    assert row.share_high is not None
    assert row.ratio_low is not None
    assert row.ratio_high is not None
    assert row.share_low < 0.8 < row.share_high
    assert row.share_high - row.share_low < 0.1 < row.ratio_high / row.ratio_low - 1


def test_an_earlier_row_is_shown_as_it_is_and_changes_no_other() -> None:
    rates: Rounds = {"reference": noisy(10, 0.02, 1), "fast": noisy(100, 0.02, 2)}
    alone = rows_of(rates)
    kept = replace(alone["fast"], experiment="kept", ratio=70.0, rank=None, earlier="2026-01-02")
    rows = rows_of(rates, [kept])
    assert rows.pop("kept") is kept
    assert rows == alone
    assert alone["fast"].rank == 1


def test_two_turns_of_a_round_count_as_one() -> None:
    turns = [*turns_of({"reference": [10.0, 40.0, 20.0]}), *turns_of({"reference": [40.0]}, begin=3)]
    assert rates_of(turns, ["reference"]) == {"reference": pytest.approx([20.0, 40.0, 20.0])}
    answers = {turn.turn: np.full(40, 7.0) for turn in turns}
    [row] = comparison_rows(["reference"], "reference", turns, answers, 0.05)
    assert (row.rounds, row.turns, row.answers, row.failed) == (3, 4, 800, 4)
    assert (row.p50_ms, row.p95_ms, row.p95_low_ms) == (7.0, 7.0, 7.0)


def test_a_row_has_the_percentile_that_the_objective_asks_for_where_its_answers_suffice() -> None:
    turns = turns_of({"reference": [10.0, 40.0, 20.0]})
    answers = {turn.turn: np.arange(100.0) + turn.turn for turn in turns}

    def percentile_for(miss: float) -> float | None:
        return comparison_rows(["reference"], "reference", turns, answers, miss)[0].objective_ms

    [row] = comparison_rows(["reference"], "reference", turns, answers, 0.05)
    assert (percentile_for(0.05), percentile_for(0.5)) == (row.p95_ms, row.p50_ms)
    assert percentile_for(0.1) == pytest.approx(90, abs=1)
    assert percentile_for(0.01) is None  # 300 of 662


SPEEDS = (1.0, 0.5, 0.9, 0.6, 1.0, 0.7, 0.5, 1.0)


def efficiency(served: Sequence[float | None], pipeline_in: range) -> ComparisonRow:
    """The row of a server whose pipeline does 100 times the machine's speed; probes have no served turn."""
    beside = [100 * speed if number in pipeline_in else None for number, speed in enumerate(SPEEDS)]
    turns = [*turns_of({"reference": served}), *turns_of({"reference": beside}, "pipeline", 50)]
    probe = TurnRow(99, 0.0, 0.3, -1, "reference", "pipeline", rate_rps=1.0)
    return comparison_rows(["reference"], "reference", [*turns, probe], {}, 0.05)[0]


def test_efficiency_is_that_of_the_rounds_that_have_both_rates_whatever_the_machines_speed() -> None:
    served = [80 * speed for speed in SPEEDS]
    row = efficiency(served, range(2, 6))
    assert (row.efficiency, row.efficiency_low, row.efficiency_high) == pytest.approx((0.8, 0.8, 0.8))
    assert row.pipeline_rps == pytest.approx(100 * (0.9 * 0.6 * 1.0 * 0.7) ** 0.25, abs=0.01)
    few, none = efficiency(served, range(2)), efficiency(served, range(0))
    assert few.efficiency == pytest.approx(0.8)
    assert few.efficiency_low is few.efficiency_high is None
    assert none.efficiency is none.pipeline_rps is None


def test_a_turn_without_an_answer_leaves_no_efficiency() -> None:
    """The others alone would show those that had luck."""
    row = efficiency([80 * speed for speed in SPEEDS[:-1]] + [None], range(8))
    assert row.efficiency is row.efficiency_low is None


@pytest.mark.parametrize("failing", ["reference", "bad"])
def test_who_fails_requests_has_no_rank_and_no_p95_and_is_named_first(failing: str) -> None:
    """Its rate counts good answers, so it may be the highest."""
    rates = {"reference": 10.0, "good": 12.0, "slow": 8.0, "bad": 20.0}
    turns = turns_of({name: noisy(rate, 0.01, seed) for seed, (name, rate) in enumerate(rates.items())})
    turns = [replace(turn, failed=150) if turn.subject == failing else turn for turn in turns]
    times = latencies(turns, "slow")
    rows = {row.experiment: row for row in comparison_rows([*rates], "reference", turns, times, 0.05)}
    own = rows.pop(failing)
    assert own.fails
    assert (own.rank, own.share_of_fastest, own.p50_ms, own.p95_ms, own.objective_ms) == (None,) * 5
    assert own.ratio == pytest.approx(rates[failing] / 10, rel=0.05)
    ranked = sorted((row for row in rows.values()), key=lambda row: row.rank)
    assert [row.rank for row in ranked] == [1, 2, 3]
    assert [row.experiment for row in ranked] == sorted(rows, key=rates.__getitem__, reverse=True)
    assert ranked[0].share_of_fastest == 1
    assert all(row.p95_ms for row in ranked)
    claim = failures([own, *ranked])
    assert claim is not None
    assert failing in claim.plain
    assert failures(ranked) is None
    for pair in pairs([*rates], "reference", turns, times):
        fails = failing in (pair.name, pair.other)
        assert (pair.p95_ratio is None) == fails
        won = pair.name if (pair.ratio or 0) > 1 else pair.other
        assert (pair.verdict == "no difference resolved") == (won == failing)


def streaming(turns: Sequence[TurnRow], parts: Mapping[int, float]) -> list[TurnRow]:
    """Turns of streams of 10 bytes, and, by number of the turn, those in which only a part streams."""
    return [
        replace(
            turn,
            stream={"chunks_rps": 1.0}
            | ({"share": parts[turn.turn]} if turn.turn in parts else {"bytes_rps": 10 * turn.rate_rps}),
        )
        for turn in turns
        if turn.rate_rps
    ]


def test_an_answer_that_does_not_stream_takes_its_round_out_and_mixed_bodies_are_compared_in_requests() -> (
    None
):
    turns = turns_of({"reference": noisy(10, 0.02, 1), "fast": noisy(12, 0.02, 2)})
    stray, mixed = streaming(turns, {3: 0.99}), streaming(turns, dict.fromkeys(range(24), 0.5))
    for own, unit, rounds in ((stray, "bytes", 11), (mixed, "requests", 12)):
        rows = comparison_rows(["reference", "fast"], "reference", own, {}, 0.05)
        assert counted(own) == counted(rows) == unit
        assert sum(rate is not None for rate in rates_of(own, ["reference"])["reference"]) == rounds
        assert [row.rank for row in rows] == [2, 1]
        [pair] = pairs(["reference", "fast"], "reference", own, {})
        assert pair.verdict == "faster"
    assert comparison_rows(["fast"], "fast", mixed, {}, 0.05)[0].stream["share"] == 0.5
    [claim] = partly_streamed(comparison_rows(["reference"], "reference", mixed, {}, 0.05))
    assert "requests" in claim.plain
    assert rate_alone(stray[3]) is None
    assert rate_alone(mixed[3]) == mixed[3].rate_rps


def latencies(turns: Sequence[TurnRow], slower: str) -> dict[int, Floats]:
    """Thirty of each turn, about 50 ms, and those of one twice as long."""
    rng = np.random.default_rng(0)
    return {
        turn.turn: (100 if turn.subject == slower else 50) * np.exp(rng.normal(0, 0.1, 30)) for turn in turns
    }


def test_pairs_are_each_over_each_before_it_with_verdicts_on_rate_and_p95() -> None:
    rates = {"a": noisy(10, 0.01, 1, 20), "twin": noisy(10, 0.01, 2, 20), "wild": noisy(10, 0.3, 3, 20)}
    turns = turns_of({**rates, "fast": noisy(14, 0.01, 4, 20)})
    each = pairs([*rates, "fast"], "a", turns, latencies(turns, "fast"))
    found = {(pair.name, pair.other): pair for pair in each}
    assert found["twin", "a"].verdict == "equal within 3%"
    assert found["wild", "a"].verdict == found["wild", "twin"].verdict == "no difference resolved"
    assert found["fast", "a"].verdict == found["fast", "twin"].verdict == "faster"
    assert len(found) == 6
    fast = found["fast", "a"]
    assert fast.p95_verdict == "slower"
    assert fast.p95_low is not None
    assert fast.p95_high is not None
    assert fast.p95_low < 2 < fast.p95_high
    assert found["twin", "a"].p95_verdict != "slower"


def test_the_change_is_that_of_after_over_before_and_null_where_there_is_no_before() -> None:
    turns = turns_of(
        {"reference": noisy(5, 0.1, 1), "before": noisy(10, 0.01, 2), "candidate": noisy(12, 0.01, 3)}
    )
    found = over_before(turns, latencies(turns, "before"), "reference", "before", "candidate", {"a": (1, 2)})
    assert found.low < 1.2 < found.high < 1.3
    assert found.changes == {"a": (1, 2)}
    before_ms, after_ms = found.p95_ms
    assert before_ms == pytest.approx(2 * after_ms, rel=0.1)
    ratio, low, high = found.p95_ratio
    assert low < ratio < high < 0.6
    others = [turn for turn in turns if turn.subject != "before"]
    without = over_before(others, {}, "reference", "before", "candidate", {"a": (1, 2)})
    assert not any(without.model_dump().values())
