"""The result of a comparison, from its turns: rates, ratios with intervals, ranks, latencies; pairs."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import geometric_mean
from typing import Any, Literal

from litmeter.kinds.configuration import RanAs
from litmeter.kinds.costs import CostCeiling
from litmeter.measure.figures import COMPARED, StreamTimes, failed_rows, stream_figures
from litmeter.measure.rows import ComparisonRow, TurnRow, fails
from litmeter.paths import COMPARISON
from litmeter.stats.rates import objective_percent, percentile, percentile_of_blocks
from litmeter.stats.ratios import (
    Ratio,
    block_edges,
    comparable,
    percentile_ratio,
    ranks,
    ratio,
    ratios,
    rounds_of_both,
    simultaneous,
)
from litmeter.stats.records import Floats, joined
from litmeter.system.files import Record, read_json, rounded

RANKED_FROM_ROUNDS = 3
"""Minimum rounds for an interval and a rank (fewer if the reference has fewer), and, among rounds with the
pipeline's rate, for the efficiency's interval."""

Verdict = Literal["faster", "slower", "equal within 3%", "no difference resolved"]


@dataclass(frozen=True)
class Pair:
    """Rates and 95th percentiles of ``name`` over ``other``, with simultaneous 95% intervals.

    The percentiles are of latency; of answers that stream, of the time to the first piece. A ratio is None if
    a rate is unknown or nothing compares the two; a percentile, with too few answers.
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


class OverBefore(Record):
    """What changed settings of the candidate do, measured in the same rounds; None where nothing was.

    Attributes:
        ratio, low, high: of the rates after and before.
        changes: the settings that differ, each with its value before and after.
        streams: whether answers stream, and the percentiles are of the time to the first piece.
        p95_ms: before and after.
        p95_ratio: after over before, with its interval.
    """

    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    changes: Mapping[str, tuple[Any, Any]] | None = None
    streams: bool = False
    p95_ms: tuple[float | None, float | None] | None = None
    p95_ratio: tuple[float | None, float | None, float | None] | None = None


class ComparisonResult(Record):
    """What a comparison found, beside its log of turns: metrics/comparison.json.

    Attributes:
        date: when it was measured, as ISO 8601.
        model: the served digest.
        candidate: settings of the candidate; None without one.
        signatures: by configuration, a hash of all that its row depends on.
        rows: of each configuration; a row that was kept from an earlier run has that run's date.
        unavailable: by configuration, why it was not run in-process.
        batch_ms: by configuration, time of an answer in-process by batch size.
        ready_s: seconds that each server took to start.
        ran: by configuration, what the server itself has chosen.
        ceilings: by configuration, what the machine allows, where the costs of an item are known.
    """

    date: str
    model: str | None
    candidate: Mapping[str, Any] | None
    signatures: Mapping[str, str]
    rows: Sequence[ComparisonRow]
    over_before: OverBefore
    unavailable: Mapping[str, str]
    batch_ms: Mapping[str, Mapping[int, float]]
    ready_s: Mapping[str, float | None]
    ran: Mapping[str, RanAs] = {}
    ceilings: Mapping[str, CostCeiling] = {}


def read_comparison() -> ComparisonResult:
    """The last comparison; raise OSError or ValueError where there is none that can be read."""
    return ComparisonResult.model_validate(read_json(COMPARISON))


def comparison_rows(
    names: Sequence[str],
    reference: str,
    rows: Sequence[TurnRow],
    latencies_ms: Mapping[int, Floats],
    miss: float,
    earlier: Sequence[ComparisonRow] = (),
    times_ms: Mapping[int, StreamTimes] = {},
    short: Mapping[int, int] = {},
) -> list[ComparisonRow]:
    """A row for each measured configuration, in the order of ``names``.

    Args:
        latencies_ms: latencies of good answers in the measured windows, by number of the turn.
        miss: share of the answers that the objective allows to take longer.
        earlier: rows of an earlier run, for configurations that this run has not measured; they are kept as
            they are, and take no part in comparisons.
        times_ms: of the pieces of answers, by number of the turn.
        short: see ``Log.short_answers``.
    """
    kept = {row.experiment: row for row in earlier}
    turns = _served_turns(rows)
    answered = _always_answered(turns) | {reference}
    rates = rates_of(rows, [name for name in names if name in turns.keys() & answered])
    reference_rps = {turn.round: turn.rate_rps for turn in turns.get(reference, ()) if turn.rate_rps}
    unit = counted(itertools.chain.from_iterable(turns.values()))
    compared = rates if reference_rps and unit else {}
    shared = {name: len(rounds_of_both(rates, name, reference)) for name in compared}
    needed = min(RANKED_FROM_ROUNDS, shared.get(reference, 0))
    failing = _failing(turns)
    enough = {
        name: rates[name] for name in shared if shared[name] >= needed and name not in failing - {reference}
    }
    to_reference, rank_of = ratios(enough, reference), ranks(enough, reference)
    if reference in failing & rank_of.keys():
        del rank_of[reference]
        rank_of = {name: 1 + sum(rank < own for rank in rank_of.values()) for name, own in rank_of.items()}
    fastest = max(rank_of, key=lambda name: to_reference[name].ratio, default=reference)
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
        times = in_columns(one, "ratio", "ratio_low", "ratio_high")
        if name not in rates and unit == "requests":  # rounds without an answer count as bounds
            beside = [turn for turn in own if turn.round in reference_rps]
            bound = _mean([turn.highest_rps / reference_rps[turn.round] for turn in beside])
            times["ratio_high"] = rounded(bound, 4)
        share = to_fastest.get(name) if name in rank_of else None
        timed = [] if name in failing else [turn.turn for turn in own if turn.turn in latencies_ms]
        blocks = _blocks([latencies_ms[turn] for turn in timed])
        in_process = _in_process(name, rows)
        efficiency = _efficiency(in_process)
        found.append(
            ComparisonRow(
                experiment=name,
                users=own[0].users or 0,
                rate_rps=rounded(_mean(known), 2),
                lowest_rps=rounded(min(known, default=None), 2),
                highest_rps=rounded(max(turn.highest_rps for turn in own) or None, 2),
                **times,
                **in_columns(share, "share_of_fastest", "share_low", "share_high"),
                rank=rank_of.get(name),
                **_percentile(blocks, 50),
                **_percentile(blocks, 95),
                answers=sum(turn.answers for turn in own),
                failed=failed_rows(own),
                rounds=len({turn.round for turn in own}),
                turns=len(own),
                objective_ms=rounded(percentile(joined(blocks), objective_percent(miss)), 2),
                model_rps=rounded(_mean([rate for rate in in_process["model"] if rate]), 2),
                pipeline_rps=rounded(_mean(in_process["pipeline"]), 2),
                **in_columns(efficiency, "efficiency", "efficiency_low", "efficiency_high", digits=3),
                stream=_stream(own, {} if name in failing else times_ms, short),
            )
        )
    return found


def pairs(
    names: Sequence[str],
    reference: str,
    rows: Sequence[TurnRow],
    waited_ms: Mapping[int, Floats],
    p95_error: float | None = None,
    starts: Sequence[int] | None = None,
) -> list[Pair]:
    """Each of ``names`` over each name before it, with the pooled variance of all that were measured.

    Args:
        reference: compares two that share no round.
        rows: of a server that fails requests there is no p95, and no verdict that it is faster.
        waited_ms: by number of the turn, the times that have percentiles, see ``Log.first_ms``.
        p95_error: error of the intervals of p95, if not the common one.
        starts: of two that are restarted, the first round after each start.
    """
    chosen = list(itertools.combinations(names, 2))
    turns, error = _served_turns(rows), simultaneous(len(chosen))
    answered, failing = _always_answered(turns), _failing(turns)
    can_compare = counted(itertools.chain.from_iterable(turns.values())) is not None
    rates = rates_of(rows, [name for name in turns if name in answered and can_compare])
    nothing = joined([])
    latencies: dict[str, dict[int, Floats]] = {name: {} for name in turns}
    for turn in itertools.chain.from_iterable(own for name, own in turns.items() if name not in failing):
        before = latencies[turn.subject].get(turn.round, nothing)
        latencies[turn.subject][turn.round] = joined([before, waited_ms.get(turn.turn, nothing)])
    found = []
    for other, name in chosen:
        known = comparable(rates, name, other, reference)
        rate = ratio(rates, name, other, reference, error, starts) if known else None
        own, others = latencies.get(name, {}), latencies.get(other, {})
        p95 = percentile_ratio(own, others, 95, p95_error or error, starts)
        won = None if rate and (name if rate.ratio > 1 else other) in failing else rate
        found.append(
            Pair(
                name=name,
                other=other,
                **in_columns(rate, "ratio", "low", "high"),
                verdict=verdict(won),
                p95_ms=rounded(percentile(joined(own.values()), 95), 2),
                other_p95_ms=rounded(percentile(joined(others.values()), 95), 2),
                **in_columns(p95, "p95_ratio", "p95_low", "p95_high"),
                p95_verdict=verdict(p95, "slower", "faster"),
            )
        )
    return found


def over_before(
    rows: Sequence[TurnRow],
    waited_ms: Mapping[int, Floats],
    reference: str,
    before: str,
    after: str,
    changes: Mapping[str, tuple[Any, Any]],
) -> OverBefore:
    """``after`` over ``before``, see ``pairs``; nothing where either was not measured."""
    if not {before, after} <= _served_turns(rows).keys():
        return OverBefore()
    [pair] = pairs((before, after), reference, rows, waited_ms)
    return OverBefore(
        ratio=pair.ratio,
        low=pair.low,
        high=pair.high,
        changes=changes,
        streams=streams(rows),
        p95_ms=(pair.other_p95_ms, pair.p95_ms),
        p95_ratio=(pair.p95_ratio, pair.p95_low, pair.p95_high),
    )


def _stream(
    turns: Sequence[TurnRow], times_ms: Mapping[int, StreamTimes], short: Mapping[int, int]
) -> dict[str, float]:
    """Percentiles of all turns' times, means of the rates that most turns have, the share of the answers that
    stream, if not all do, and the short answers."""
    found = stream_figures([times_ms[turn.turn] for turn in turns if turn.turn in times_ms])
    left_out = {f"{unit}_rps" for unit in set(COMPARED) - _units(turns)}
    for name in dict.fromkeys(name for turn in turns for name in turn.stream if name not in left_out):
        rates = [turn.stream.get(name) for turn in turns if name in turn.stream or not turn.rate_rps]
        if name.endswith("_rps") and 2 * len(rates) > len(turns) and (mean := _mean(rates)) is not None:
            found[name] = round(mean, 3)
    if streams(turns) and (share := streamed_share(turns)) < 1:
        found["share"] = round(share, 4)
    if number := sum(short.get(turn.turn, 0) for turn in turns):
        found["short"] = float(number)
    return found


ONE_STREAMS = "some servers stream and others do not, so their rates are not compared"
Counted = Literal["requests", "tokens", "bytes"]
"""What a rate counts."""
ALIKE = 1 / 3
"""Servers are compared if the shares of their answers that stream differ by no more."""
STRAY = 0.1
"""A turn of which a smaller share does not stream has strays; with more of them, requests are mixed."""


def counted(rows: Iterable[TurnRow | ComparisonRow]) -> Counted | None:
    """What the rates of these rows are compared by: of streams tokens, or bytes if a server says no tokens.

    Most rows of each server have that rate; the others are not compared. Where they do not, as only a part of
    the requests asks for a stream, it is requests. None if some servers stream and others do not: a request
    of one is not a request of the other.
    """
    answered: dict[str, list[TurnRow | ComparisonRow]] = defaultdict(list)
    for row in rows:
        if row.rate_rps and not getattr(row, "void", ""):
            answered[row.subject if isinstance(row, TurnRow) else row.experiment].append(row)
    shares = [streamed_share(own) for own in answered.values()]
    if shares and max(shares) - min(shares) > ALIKE:
        return None
    known = set(COMPARED).intersection(*map(_units, answered.values())) if answered else set()
    return next((unit for unit in COMPARED if unit in known), "requests")


def _units(rows: Sequence[TurnRow | ComparisonRow]) -> set[Counted]:
    """Of tokens and bytes what most rows have the rate of, and no fewer rows than that of the other."""
    number = {unit: sum(rate_in(unit, row) is not None for row in rows) for unit in COMPARED}
    most = max(number.values())
    return {unit for unit in COMPARED if number[unit] == most and 2 * most > len(rows)}


def streamed_share(rows: Sequence[TurnRow | ComparisonRow]) -> float:
    """The share of the answers that stream, in the mean of the rows."""
    return sum(row.stream.get("share", float(bool(row.stream))) for row in rows) / len(rows)


def streams(rows: Iterable[TurnRow | ComparisonRow]) -> bool:
    """Whether answers stream, of one server at least."""
    return any(row.stream for row in rows)


def rate_in(unit: Counted, row: TurnRow | ComparisonRow) -> float | None:
    """The rate of a row, a second."""
    return row.rate_rps if unit == "requests" else row.stream.get(f"{unit}_rps")


def rate_alone(row: TurnRow) -> float | None:
    """The rate of a row that is compared with rows of the same API alone; None with strays, too."""
    unit = counted([row])
    stray = unit == "requests" and streamed_share([row]) > 1 - STRAY
    return None if unit is None or stray else rate_in(unit, row)


def _served_turns(rows: Sequence[TurnRow]) -> dict[str, list[TurnRow]]:
    turns: dict[str, list[TurnRow]] = {}
    for row in (row for row in rows if row.work == "served"):
        turns.setdefault(row.subject, []).append(row)
    return turns


def _always_answered(turns: Mapping[str, Sequence[TurnRow]]) -> set[str]:
    return {name for name, own in turns.items() if all(turn.rate_rps for turn in own)}


def _failing(turns: Mapping[str, Sequence[TurnRow]]) -> set[str]:
    """Servers that fail requests."""
    return {name for name, own in turns.items() if fails(failed_rows(own), sum(turn.answers for turn in own))}


def rates_of(rows: Sequence[TurnRow], names: Sequence[str]) -> dict[str, list[float | None]]:
    """The served rates of ``names`` by round; of several turns in a round, their geometric mean."""
    turns = _served_turns(rows)
    rounds = sorted({row.round for own in turns.values() for row in own})
    unit = counted(itertools.chain.from_iterable(turns.values())) or "requests"

    def rate(name: str, number: int) -> float | None:
        return _mean([rate_in(unit, turn) for turn in turns.get(name, ()) if turn.round == number])

    return {name: [rate(name, number) for number in rounds] for name in names}


def _mean(rates: Sequence[float | None]) -> float | None:
    # None without rates, or if one is unknown.
    known = [rate for rate in rates if rate]
    return geometric_mean(known) if known and len(known) == len(rates) else None


def in_columns(one: Ratio | None, *columns: str, digits: int = 4) -> dict[str, Any]:
    """A ratio and the ends of its interval, rounded, by their three ``columns``; None without."""
    values = (one.ratio, one.low, one.high) if one else (None, None, None)
    return {column: rounded(value, digits) for column, value in zip(columns, values, strict=True)}


def _blocks(turns: Sequence[Floats]) -> list[Floats]:
    """Latencies of turns, joined by blocks of rounds: neighbouring rounds are alike."""
    return [joined(turns[begin:end]) for begin, end in itertools.pairwise(block_edges(turns))]


def _percentile(blocks: Sequence[Floats], percent: int) -> dict[str, Any]:
    """Percentile of all blocks together and its interval over the blocks, ms, by their columns."""
    values = zip(("", "_low", "_high"), percentile_of_blocks(blocks, percent), strict=True)
    return {f"p{percent}{end}_ms": rounded(value, 2) for end, value in values}


def _in_process(name: str, rows: Sequence[TurnRow]) -> dict[str, list[float | None]]:
    """Rates of the model; of the pipeline and the server, those of the rounds that have both."""
    rates: dict[str, dict[int, float | None]] = defaultdict(dict)
    for row in rows:
        if row.subject == name and row.round >= 0:
            rates[row.work][row.round] = row.rate_rps
    rounds = [number for number, rate in rates["pipeline"].items() if rate and number in rates["served"]]
    beside = {work: [rates[work][number] for number in rounds] for work in ("served", "pipeline")}
    return beside | {"model": list(rates["model"].values())}


def _efficiency(rates: Mapping[str, list[float | None]]) -> Ratio | None:
    """Served over pipeline, by ``_in_process``; None where a served turn has no good answer."""
    if not rates["served"] or not all(rates["served"]):
        return None
    beside = {work: rates[work] for work in ("served", "pipeline")}
    own = ratio(beside, "served", "pipeline", "pipeline")
    return own if len(rates["served"]) >= RANKED_FROM_ROUNDS else Ratio(own.ratio, None, None)


def verdict(one: Ratio | None, above: Verdict = "faster", below: Verdict = "slower") -> Verdict:
    """What an interval says about two rates; for latencies, pass the words for a ratio above and below 1."""
    if one is not None and one.equal:
        return "equal within 3%"
    if one is None or not one.resolved:
        return "no difference resolved"
    return above if one.ratio > 1 else below
