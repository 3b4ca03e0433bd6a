"""The comparison at its first load, and its result in sentences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from litmeter.benchmark.comparison_rows import rates_of
from litmeter.benchmark.rows import ComparisonRow, TurnRow
from litmeter.errors import ReportError
from litmeter.params import Params
from litmeter.paths import COMPARISON
from litmeter.report.printed import errors_of_measuring
from litmeter.stats.comparison import Ratio, ratio, simultaneous
from litmeter.system.tables import pluralise

FEW_ROUNDS = 10
"""Fewer than this are pointed out: intervals of ten rounds are about as wide as the noise of one."""


@dataclass(frozen=True)
class Lead:
    """How many times the rate of the second the fastest serves."""

    fastest: str
    second: str
    ratio: Ratio


def compared_rows(rows: Sequence[ComparisonRow], params: Params) -> list[ComparisonRow]:
    """The rows at the first load, in the order of params.yaml.

    Raises:
        ReportError: a configuration of params.yaml has no row, or one that it has not has rows.
    """
    users = params.comparison.users[0]
    others = {row.experiment for row in rows} - set(params.configurations())
    if others:
        raise ReportError(
            f"{COMPARISON} has rows of {', '.join(sorted(others))}, which params.yaml has not; "
            "`dvc repro comparison` makes it anew"
        )
    by_name = {row.experiment: row for row in rows if row.users == users}
    missing = [name for name in params.configurations() if name not in by_name]
    if missing:
        raise ReportError(
            f"{COMPARISON} has no row at {pluralise(users, 'user')} of {', '.join(missing)}; "
            "`dvc repro comparison` makes it"
        )
    return [by_name[name] for name in params.configurations()]


def lead_of(rows: Sequence[ComparisonRow], turns: Sequence[TurnRow], reference: str) -> Lead | None:
    """The lead of the fastest over the second; None where fewer than two were ranked.

    Its interval is simultaneous for all others, as the second is known only afterwards.

    Args:
        rows: of one load.
        turns: of all loads.
    """
    ranked = [row for row in rows if row.rank]
    if len(ranked) < 2:
        return None
    fastest, second = sorted(ranked, key=lambda row: (row.rank or 0, -(row.ratio or 0.0)))[:2]
    rates = rates_of(
        [turn for turn in turns if turn.users == fastest.users], [row.experiment for row in ranked]
    )
    error = simultaneous(len(ranked) - 1)
    return Lead(
        fastest.experiment,
        second.experiment,
        ratio(rates, fastest.experiment, second.experiment, reference, error),
    )


def verdict(rows: Sequence[ComparisonRow], params: Params) -> list[str]:
    """Sentences: which is fastest, whether on few rounds, which failed, which keeps to the objective."""
    sentences = fastest_sentences(rows, params.comparison.reference)
    rounds = max(row.rounds for row in rows)
    if rounds < FEW_ROUNDS:
        sentences.append(f"With only {rounds} rounds the intervals are wide: raise `comparison.seconds`.")
    slo_ms = params.objective.slo_ms
    within_slo = [
        row for row in rows if row.rank and row.p95_ms is not None and row.p95_ms <= slo_ms and not row.failed
    ]
    sentences += [*errors_of_measuring(rows), *earlier_sentences(rows)]
    failing = [f"{row.experiment} ({row.failed})" for row in rows if row.failed]
    if failing:
        sentences.append(f"Requests failed, and count in no rate: {', '.join(failing)}.")
    if not within_slo:
        return [*sentences, f"None is known to keep its p95 below {slo_ms:g} ms."]
    within_slo.sort(key=lambda row: (row.rank or 0, -(row.ratio or 0.0)))
    tied = [row for row in within_slo if row.rank == within_slo[0].rank]
    names = " or ".join(f"{row.experiment}, {row.p95_ms:.0f} ms" for row in tied)
    doubt = "; which of them is not resolved" if len(tied) > 1 else ""
    return [*sentences, f"Fastest with p95 below {slo_ms:g} ms: {names}{doubt}."]


def fastest_sentences(rows: Sequence[ComparisonRow], reference: str) -> list[str]:
    """Which configurations of rank 1 there are, their rate, and which answered nothing; of one load."""
    ranked = sorted((row for row in rows if row.rank), key=lambda row: (row.rank or 0, -(row.ratio or 0.0)))
    if not ranked:
        return ["No configuration could be compared: the reference answered nothing."]
    leaders = [row for row in ranked if row.rank == 1]
    users = pluralise(ranked[0].users, "user")
    names = [row.experiment for row in leaders]
    if len(leaders) == 1:
        sentences = [f"Fastest at {users}: {names[0]}, {rate_text(leaders[0], reference)}."]
    else:
        all_names = f"{', '.join(names[:-1])} and {names[-1]}"
        sentences = [
            f"Fastest at {users}: {all_names}, between which no difference is resolved; "
            f"{names[0]} serves {rate_text(leaders[0], reference)}."
        ]
    few = [row.experiment for row in rows if not row.rank and row.rate_rps is not None]
    if few:
        sentences.append(
            f"Not ranked, as they were far behind or answered in too few rounds: {', '.join(few)}."
        )
    unanswered = [row.experiment for row in rows if row.rate_rps is None]
    if unanswered:
        sentences.append(f"Without an answer in one round or more: {', '.join(unanswered)}.")
    return sentences


def earlier_sentences(rows: Sequence[ComparisonRow]) -> list[str]:
    """A sentence if rows were kept from an earlier run."""
    kept = [row.experiment for row in rows if row.earlier]
    if not kept:
        return []
    return [f"Kept from an earlier run, as nothing that they depend on has changed: {', '.join(kept)}."]


def named(row: ComparisonRow) -> str:
    """The name of a configuration in a table, marked if its row was kept from an earlier run."""
    return f"`{row.experiment}`" + (" (earlier)" if row.earlier else "")


def rate_text(row: ComparisonRow, reference: str) -> str:
    """Rate, and its ratio to the reference with the interval."""
    if row.experiment == reference:
        return f"{row.rate_rps:.1f} req/s"
    interval = "" if row.ratio_low is None else f" ({row.ratio_low:.2f} to {row.ratio_high:.2f})"
    return f"{row.rate_rps:.1f} req/s, {row.ratio:.2f} times {reference}{interval}"


def range_text(row: ComparisonRow) -> str:
    """The lowest and the highest rate of a round, or what all were below."""
    if row.highest_rps is None:
        return "-"
    return f"{'below' if row.lowest_rps is None else f'{row.lowest_rps:.1f} to'} {row.highest_rps:.1f}"


def ratio_text(row: ComparisonRow, reference: str) -> str:
    """The ratio with its interval or bound, a dash where it is unknown."""
    if row.ratio is None:
        return "-" if row.ratio_high is None else f"below {row.ratio_high:.2f}"
    if row.experiment == reference:
        return "1"
    interval = "" if row.ratio_low is None else f" ({row.ratio_low:.2f} to {row.ratio_high:.2f})"
    return f"{row.ratio:.2f}{interval}"
