"""Rows of a comparison from its turns: rates, ratios with intervals, ranks, latencies."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from litmeter.measure.rows import ComparisonRow, TurnRow
from litmeter.params import ComparisonSettings
from litmeter.stats.comparison import Rates, Ratio, block_edges, ranks, ratio, ratios
from litmeter.stats.rates import percentile, percentile_interval_of_blocks
from litmeter.system.files import rounded

Latencies = Mapping[tuple[int, str], list[npt.NDArray[np.float64]]]
"""The latencies of each turn, ms, by users and configuration."""
LATENCY_COLUMNS = ("p50_ms", "p50_low_ms", "p50_high_ms", "p95_ms", "p95_low_ms", "p95_high_ms")
EFFICIENCY_COLUMNS = ("pipeline_rps", "efficiency", "efficiency_low", "efficiency_high")
METRICS = (
    *("rate_rps", "ratio", "ratio_low", "ratio_high", "rank"),
    *(*LATENCY_COLUMNS, "failed", "rounds", *EFFICIENCY_COLUMNS),
)
"""Columns of a row that metrics/comparison/NAME.json holds."""
RANKED_FROM_ROUNDS = 3
"""With fewer rounds than this, and than the reference has, a configuration has no interval and no rank. With
fewer that have the pipeline's rate as well, its efficiency has none."""


def comparison_rows(
    settings: ComparisonSettings,
    names: Sequence[str],
    turns: Sequence[TurnRow],
    latencies: Latencies,
    earlier_rows: Sequence[ComparisonRow],
    earlier_turns: Sequence[TurnRow] = (),
) -> list[ComparisonRow]:
    """One row per load and configuration; loads that are not compared have neither ratios nor ranks.

    Args:
        turns: of this run.
        latencies: of this run's turns.
        earlier_rows: of configurations that this run has not measured, whose latencies are used.
        earlier_turns: of these configurations, and of the reference in the same rounds: they are compared
            with the others through it, while its own row is that of this run.
    """
    all_turns = [*earlier_turns, *turns]
    earlier_row = {(row.users, row.experiment): row for row in earlier_rows}
    rows = []
    for users in sorted({turn.users for turn in all_turns}):
        turns_at_load = [turn for turn in all_turns if turn.users == users]
        complete = [name for name in names if name == settings.reference or answered(name, turns_at_load)]
        rates = rates_of(turns_at_load, complete)
        compared = users in settings.users and any(rates[settings.reference])
        ratio_of = measured_ratios(rates, settings.reference) if compared else {}
        rank_of = ranks(with_enough_rounds(rates, settings.reference), settings.reference) if compared else {}
        for name in names:
            own_turns = [turn for turn in turns if (turn.users, turn.experiment) == (users, name)]
            own_turns = own_turns or [turn for turn in turns_at_load if turn.experiment == name]
            known = [turn.rate_rps for turn in own_turns if turn.rate_rps] if name in complete else []
            highest = max((turn.rate_rps or turn.bound_rps or 0.0 for turn in own_turns), default=0.0)
            own = ratio_of.get(name)
            bounded = compared and name not in complete
            bound = ratio_bound(name, turns_at_load, settings.reference) if bounded else None
            blocks = latencies.get((users, name))
            rows.append(
                ComparisonRow(
                    users=users,
                    experiment=name,
                    rate_rps=round(float(np.exp(np.mean(np.log(known)))), 2) if known else None,
                    lowest_rps=rounded(min(known, default=None), 2),
                    highest_rps=rounded(highest or None, 2),
                    ratio=rounded(own.ratio, 4) if own else None,
                    ratio_low=rounded(own.low, 4) if own else None,
                    ratio_high=rounded(own.high if own else bound, 4),
                    rank=rank_of.get(name),
                    **(
                        latency_columns(blocks)
                        if blocks
                        else earlier_latencies(earlier_row.get((users, name)))
                    ),
                    failed=sum(turn.failed for turn in own_turns),
                    rounds=len(own_turns),
                    earlier=not blocks and (users, name) in earlier_row,
                    **efficiency_columns(own_turns),
                )
            )
    return rows


def answered(name: str, turns: Sequence[TurnRow]) -> bool:
    """Whether it had a good answer in each of its turns: otherwise its rate is but a bound."""
    return all(turn.rate_rps for turn in turns if turn.experiment == name)


def rates_of(turns: Sequence[TurnRow], names: Sequence[str]) -> dict[str, list[float | None]]:
    """The rates of ``names`` in each round of ``turns``, which are of one load."""
    rate_rps = {(turn.experiment, turn.round): turn.rate_rps for turn in turns}
    rounds = sorted({turn.round for turn in turns})
    return {name: [rate_rps.get((name, number)) for number in rounds] for name in names}


def measured_ratios(rates: Rates, reference: str) -> dict[str, Ratio]:
    """The ratio of each that answered; simultaneous intervals for those with enough rounds."""
    with_interval = ratios(with_enough_rounds(rates, reference), reference)
    return {
        name: with_interval.get(name) or without_interval(rates, name, reference)
        for name, rounds in shared_rounds(rates, reference).items()
        if rounds
    }


def ratio_bound(name: str, turns: Sequence[TurnRow], reference: str) -> float | None:
    """What the ratio of a configuration to ``reference`` is below: rounds without an answer count as bounds.

    None where they share no round in which the reference answered.
    """
    reference_rps = {turn.round: turn.rate_rps for turn in turns if turn.experiment == reference}
    shares = [
        (turn.rate_rps or turn.bound_rps or 0.0) / of_reference
        for turn in turns
        if turn.experiment == name and (of_reference := reference_rps.get(turn.round))
    ]
    return float(np.exp(np.mean(np.log(shares)))) if shares and all(shares) else None


def with_enough_rounds(rates: Rates, reference: str) -> dict[str, Sequence[float | None]]:
    """The rates of those that are ranked."""
    shared = shared_rounds(rates, reference)
    enough = min(RANKED_FROM_ROUNDS, shared[reference])
    return {name: rates[name] for name, rounds in shared.items() if rounds >= enough}


def shared_rounds(rates: Rates, reference: str) -> dict[str, int]:
    """The number of rounds in which both a configuration and the reference answered."""
    return {
        name: sum(bool(rate and other) for rate, other in zip(by_round, rates[reference], strict=True))
        for name, by_round in rates.items()
    }


def without_interval(rates: Rates, name: str, reference: str) -> Ratio:
    """The ratio of a configuration with too few rounds for a useful interval."""
    return Ratio(ratio(rates, name, reference, reference).ratio, None, None)


def latency_columns(turns: Sequence[npt.NDArray[np.float64]]) -> dict[str, float | None]:
    """LATENCY_COLUMNS: p50 and p95 of all turns together, with intervals over blocks of rounds.

    A machine's state lasts longer than a round, so neighbouring rounds are no independent samples.
    """
    edges = block_edges(len(turns))
    blocks = [np.concatenate(turns[begin:end]) for begin, end in itertools.pairwise(edges)]
    pooled = np.concatenate(blocks)
    values: list[float | None] = []
    for percent in (50, 95):
        interval = percentile_interval_of_blocks(blocks, percent) or (None, None)
        values += [percentile(pooled, percent), *interval]
    return {column: rounded(ms, 2) for column, ms in zip(LATENCY_COLUMNS, values, strict=True)}


def efficiency_columns(turns: Sequence[TurnRow]) -> dict[str, float | None]:
    """EFFICIENCY_COLUMNS of a configuration's turns at one load, of those that have the pipeline's rate.

    None where there is no such turn, or one of them has no good answer: its rate is but a bound.
    """
    both = [(turn.rate_rps, turn.pipeline_rps) for turn in turns if turn.pipeline_rps]
    if not both or not all(rate for rate, _ in both):
        return dict.fromkeys(EFFICIENCY_COLUMNS)
    served, pipeline = zip(*both, strict=True)
    own = ratio({"served": served, "pipeline": pipeline}, "served", "pipeline", "pipeline")
    has_interval = len(both) >= RANKED_FROM_ROUNDS
    return {
        "pipeline_rps": round(float(np.exp(np.mean(np.log(pipeline)))), 2),
        "efficiency": round(own.ratio, 3),
        "efficiency_low": rounded(own.low, 3) if has_interval else None,
        "efficiency_high": rounded(own.high, 3) if has_interval else None,
    }


def earlier_latencies(row: ComparisonRow | None) -> dict[str, float | None]:
    """LATENCY_COLUMNS of an earlier row; None where there is none."""
    return {column: getattr(row, column) if row else None for column in LATENCY_COLUMNS}


def comparison_metrics(row: ComparisonRow) -> dict[str, float | int | None]:
    """Content of metrics/comparison/NAME.json."""
    return {column: getattr(row, column) for column in METRICS}
