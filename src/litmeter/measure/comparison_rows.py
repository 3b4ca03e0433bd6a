"""Results of a comparison from its turns: rates, ratios with intervals, ranks, latencies; pairs."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import geometric_mean
from typing import Any, Literal

from litmeter.measure.rows import ComparisonRow, TurnRow
from litmeter.stats.rates import objective_percent, percentile, percentile_interval_of_blocks
from litmeter.stats.ratios import (
    Ratio,
    block_edges,
    comparable,
    percentile_ratio,
    ranks,
    ratio,
    ratios,
    simultaneous,
)
from litmeter.stats.records import Floats, joined
from litmeter.system.files import rounded

METRICS = (
    *("rate_rps", "ratio", "ratio_low", "ratio_high", "share_of_fastest", "rank"),
    *("p50_ms", "p95_ms", "efficiency", "earlier"),
)
"""Columns of a row that metrics/comparison/NAME.json holds."""
RANKED_FROM_ROUNDS = 3
"""With fewer rounds than this, and than the reference has, a configuration has no interval and no rank. With
fewer that have the pipeline's rate as well, its efficiency has none."""

Verdict = Literal["faster", "slower", "equal within 3%", "no difference resolved"]


@dataclass(frozen=True)
class Pair:
    """Two subjects compared: rates and 95th percentiles of latency, of ``name`` over ``other``.

    Intervals are simultaneous 95% ones. None where a rate is unknown, nothing compares them, or a percentile
    has too few answers.
    """

    name: str
    other: str
    ratio: float | None
    low: float | None
    high: float | None
    verdict: Verdict
    p95_ms: float | None
    other_p95_ms: float | None
    p95_ratio: float | None
    p95_low: float | None
    p95_high: float | None
    p95_verdict: Verdict


def comparison_rows(
    names: Sequence[str],
    reference: str,
    rows: Sequence[TurnRow],
    latencies_ms: Mapping[int, Floats],
    miss: float,
    earlier: Sequence[ComparisonRow] = (),
) -> list[ComparisonRow]:
    """One row per configuration that has been measured, in the order of ``names``.

    Args:
        latencies_ms: of the good answers in the measured windows, by the number of their turn.
        miss: share of the answers that the objective allows to take longer.
        earlier: rows of an earlier run, for those that this one has not measured; they are shown as they are
            and take no part in comparisons.
    """
    kept = {row.experiment: row for row in earlier}
    turns = _served_turns(rows)
    answered = _always_answered(turns) | {reference}
    rates = rates_of(rows, [name for name in names if name in turns.keys() & answered])
    reference_rps = {turn.round: turn.rate_rps for turn in turns.get(reference, ()) if turn.rate_rps}
    shared: dict[str, int] = {}
    for name, own_rates in (rates if reference_rps else {}).items():
        shared[name] = sum(bool(a and b) for a, b in zip(own_rates, rates[reference], strict=True))
    needed = min(RANKED_FROM_ROUNDS, shared.get(reference, 0))
    enough = {name: rates[name] for name in shared if shared[name] >= needed}
    to_reference, rank_of = ratios(enough, reference), ranks(enough, reference)
    fastest = max(to_reference, key=lambda name: to_reference[name].ratio, default=reference)
    to_fastest = ratios(enough, fastest, reference)
    found = []
    for name in names:
        if not (own := turns.get(name)):
            found += [kept[name]] if name in kept else []
            continue
        known = [turn.rate_rps for turn in own if turn.rate_rps] if name in rates else []
        one = to_reference.get(name)
        if not one and shared.get(name):
            one = Ratio(ratio(rates, name, reference, reference).ratio, None, None)
        columns = ratio_columns(one, "ratio", "ratio_low", "ratio_high")
        if name not in rates:  # rounds without an answer count as bounds
            beside = [turn for turn in own if turn.round in reference_rps]
            bounds = [turn.highest_rps / reference_rps[turn.round] for turn in beside]
            columns["ratio_high"] = rounded(_mean(bounds), 4)
        found.append(
            ComparisonRow(
                experiment=name,
                users=own[0].users or 0,
                rate_rps=rounded(_mean(known), 2),
                lowest_rps=rounded(min(known, default=None), 2),
                highest_rps=rounded(max(turn.highest_rps for turn in own) or None, 2),
                **columns,
                **ratio_columns(to_fastest.get(name), "share_of_fastest", "share_low", "share_high"),
                rank=rank_of.get(name),
                **_latency_columns(
                    [latencies_ms[turn.turn] for turn in own if turn.turn in latencies_ms], miss
                ),
                answers=sum(turn.answers for turn in own),
                failed=sum(turn.failed + turn.timed_out for turn in own),
                rounds=len({turn.round for turn in own}),
                turns=len(own),
                **_in_process_columns(name, rows),
            )
        )
    return found


def comparison_metrics(row: ComparisonRow) -> dict[str, float | int | str | None]:
    """Content of metrics/comparison/NAME.json; ``earlier`` is null for this run's."""
    return {column: getattr(row, column) for column in METRICS} | {"earlier": row.earlier or None}


def pairs(
    names: Sequence[str],
    reference: str,
    rows: Sequence[TurnRow],
    latencies_ms: Mapping[int, Floats],
    p95_error: float | None = None,
) -> list[Pair]:
    """Each of ``names`` over each that stands before it; the variance of all that were measured is pooled.

    ``reference`` compares two that share no round; ``p95_error`` is for p95 alone, instead of the common one.
    """
    chosen = list(itertools.combinations(names, 2))
    turns, error = _served_turns(rows), simultaneous(len(chosen))
    answered = _always_answered(turns)
    rates = rates_of(rows, [name for name in turns if name in answered])
    nothing = joined([])
    latencies: dict[str, dict[int, Floats]] = {name: {} for name in turns}
    for turn in itertools.chain.from_iterable(turns.values()):
        before = latencies[turn.subject].get(turn.round, nothing)
        latencies[turn.subject][turn.round] = joined([before, latencies_ms.get(turn.turn, nothing)])
    found = []
    for other, name in chosen:
        known = comparable(rates, name, other, reference)
        rate = ratio(rates, name, other, reference, error) if known else None
        own, others = latencies.get(name, {}), latencies.get(other, {})
        both = [number for number in own if number in others]
        ours, theirs = ([each[number] for number in both] for each in (own, others))
        p95 = percentile_ratio(ours, theirs, 95, p95_error or error)
        found.append(
            Pair(
                name=name,
                other=other,
                **ratio_columns(rate, "ratio", "low", "high"),
                verdict=verdict(rate),
                p95_ms=rounded(percentile(joined(own.values()), 95), 2),
                other_p95_ms=rounded(percentile(joined(others.values()), 95), 2),
                **ratio_columns(p95, "p95_ratio", "p95_low", "p95_high"),
                p95_verdict=verdict(p95, "slower", "faster"),
            )
        )
    return found


def over_before(
    rows: Sequence[TurnRow],
    latencies_ms: Mapping[int, Floats],
    reference: str,
    before: str,
    after: str,
    changes: Mapping[str, Any],
) -> dict[str, Any]:
    """Content of metrics/over_before.json: ``after`` over ``before``, see ``pairs``.

    ``changes`` are the keys that differ, with both values. Null where either was not measured. DVC shows
    numbers, not lists: ratio and interval stand beside the rates, and nothing else.
    """
    keys = ("ratio", "low", "high", "changes", "p95_ms", "p95_ratio")
    if not {before, after} <= _served_turns(rows).keys():
        return dict.fromkeys(keys)
    [pair] = pairs((before, after), reference, rows, latencies_ms)
    p95_ms, p95_ratio = [pair.other_p95_ms, pair.p95_ms], [pair.p95_ratio, pair.p95_low, pair.p95_high]
    return dict(zip(keys, (pair.ratio, pair.low, pair.high, changes, p95_ms, p95_ratio), strict=True))


def _served_turns(rows: Sequence[TurnRow]) -> dict[str, list[TurnRow]]:
    turns: dict[str, list[TurnRow]] = {}
    for row in (row for row in rows if row.work == "served"):
        turns.setdefault(row.subject, []).append(row)
    return turns


def _always_answered(turns: Mapping[str, Sequence[TurnRow]]) -> set[str]:
    return {name for name, own in turns.items() if all(turn.rate_rps for turn in own)}


def rates_of(rows: Sequence[TurnRow], names: Sequence[str]) -> dict[str, list[float | None]]:
    """The served rates of ``names`` in each round; the geometric mean of several turns of a round."""
    turns = _served_turns(rows)
    rounds = sorted({row.round for own in turns.values() for row in own})

    def rate(name: str, number: int) -> float | None:
        return _mean([turn.rate_rps for turn in turns.get(name, ()) if turn.round == number])

    return {name: [rate(name, number) for number in rounds] for name in names}


def _mean(rates: Sequence[float | None]) -> float | None:
    # None where there is none, or one is unknown.
    known = [rate for rate in rates if rate]
    return geometric_mean(known) if known and len(known) == len(rates) else None


def ratio_columns(one: Ratio | None, *columns: str) -> dict[str, Any]:
    """Three columns: a ratio and its interval."""
    values = (one.ratio, one.low, one.high) if one else (None,) * 3
    return {column: rounded(value, 4) for column, value in zip(columns, values, strict=True)}


def _latency_columns(turns: Sequence[Floats], miss: float) -> dict[str, Any]:
    """p50 and p95 of all turns together, with intervals over blocks of rounds, as neighbours are alike.

    And what all but the share ``miss`` of the answers keep to.
    """
    edges = block_edges(len(turns))
    blocks = [joined(turns[begin:end]) for begin, end in itertools.pairwise(edges)]
    pooled = joined(blocks)
    columns = {"objective_ms": percentile(pooled, objective_percent(miss))}
    for percent in (50, 95):
        low, high = percentile_interval_of_blocks(blocks, percent) or (None, None)
        name = f"p{percent}"
        columns |= {f"{name}_ms": percentile(pooled, percent), f"{name}_low_ms": low, f"{name}_high_ms": high}
    return {column: rounded(ms, 2) for column, ms in columns.items()}


def _in_process_columns(name: str, rows: Sequence[TurnRow]) -> dict[str, Any]:
    """In-process rates, and the efficiency within the rounds that have the pipeline's rate beside the served.

    No efficiency where one of these served turns has no good answer.
    """
    rates: dict[str, dict[int, float | None]] = defaultdict(dict)
    for row in rows:
        if row.subject == name and row.round >= 0:
            rates[row.work][row.round] = row.rate_rps
    rounds = [number for number, rate in rates["pipeline"].items() if rate and number in rates["served"]]
    beside = {work: [rates[work][number] for number in rounds] for work in ("served", "pipeline")}
    columns = {
        "model_rps": rounded(_mean([rate for rate in rates["model"].values() if rate]), 2),
        "pipeline_rps": rounded(_mean(beside["pipeline"]), 2),
    }
    if not rounds or not all(beside["served"]):
        return columns
    own = ratio(beside, "served", "pipeline", "pipeline")
    figures = (own.ratio, own.low, own.high) if len(rounds) >= RANKED_FROM_ROUNDS else (own.ratio, None, None)
    names = ("efficiency", "efficiency_low", "efficiency_high")
    return columns | {column: rounded(value, 3) for column, value in zip(names, figures, strict=True)}


def verdict(one: Ratio | None, above: Verdict = "faster", below: Verdict = "slower") -> Verdict:
    """What an interval says of two rates; of latencies a ratio above 1 is slower."""
    if one is not None and one.equal:
        return "equal within 3%"
    if one is None or not one.resolved:
        return "no difference resolved"
    return above if one.ratio > 1 else below
