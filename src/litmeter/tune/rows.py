"""Results of a search: a row per configuration that raced, and what each knob is worth."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from litmeter.say.tables import (
    decimals_of,
    number_cell,
    pluralise,
    rate_cell,
    with_decimals,
    without_empty,
)

Status = Literal["winner", "equal", "not resolved", "slower", "excluded"]
NOT_SLOWER: tuple[Status, ...] = ("winner", "equal", "not resolved")


@dataclass(frozen=True)
class TuneRow:
    """A configuration that raced, in plots/tune.csv.

    Attributes:
        status: one of Status: "winner"; "equal" to the fastest, where the whole interval lies within 3%;
            "not resolved" from it; "slower"; or "excluded" by a constraint. By goal capacity, of those whose
            capacity was measured: "equal" where the intervals overlap, else "slower".
        incumbent: whether it is the section ``serve``.
        rate_rps, p95_ms: geometric mean over its rounds, p95 over all; None where too little was answered.
        ratio, over_serve: its rate over the fastest one's, and over that of the section ``serve``, in the
            rounds of both, each with a 95% interval of its own (not of all together).
        predicted_rps: by the costs of the parts; None where nothing runs in-process.
        agreement: share of the photos that the model was not fitted to, with the label of full precision;
            None of a LitAPI of one's own, as are the knobs that it has not.
        failed: requests that were refused, failed or timed out.
        eliminated_after_rounds: rounds of the race after which it left, slower beyond doubt or excluded; None
            where it did not. Who left early looks some 4% slower than it is: it left where it was unlucky.
        reason: of "excluded".
    """

    name: str
    status: str
    incumbent: bool
    precision: str | None
    compiled: bool | None
    preprocess: str | None
    transport: str | None
    workers_per_device: int
    threads_per_worker: int | None
    max_batch_size: int
    batch_timeout_s: float
    keep_freed_memory: bool | None
    predicted_rps: float | None
    rate_rps: float | None
    ratio: float | None
    ratio_low: float | None
    ratio_high: float | None
    over_serve: float | None
    over_serve_low: float | None
    over_serve_high: float | None
    p95_ms: float | None
    memory_mib: float | None
    agreement: float | None
    failed: int
    rounds: int
    capacity_rps: float | None
    capacity_low_rps: float | None
    capacity_high_rps: float | None
    reason: str
    eliminated_after_rounds: int | None = None


@dataclass(frozen=True)
class KnobRow:
    """What another value of one knob would be worth at the winner, in plots/tune_knobs.csv.

    Attributes:
        knob: a key of ``serve:``; workers and threads go together, as "2x1".
        value: of the knob; all others are the winner's.
        ratio: of its rate to the winner's.
        ratio_low, ratio_high: its 95% interval, where it was measured.
        source: "measured" in the race, or "predicted" from the costs of the parts.
    """

    knob: str
    value: str
    ratio: float
    ratio_low: float | None
    ratio_high: float | None
    source: str


def fate(row: TuneRow) -> str:
    """What became of a configuration, and when it left where it was slower."""
    left = row.status == "slower" and row.eliminated_after_rounds is not None
    return row.reason or row.status + (f", left after {row.eliminated_after_rounds} rounds" if left else "")


def at_users(users: int) -> str:
    """For how many users a search holds: with more or fewer of them other settings may be faster."""
    return f"fastest at {pluralise(users, 'user')}; with more or fewer others may be"


def ratio_cell(ratio: float | None, low: float | None, high: float | None) -> str:
    """A ratio with its interval, in three digits or those that tell its ends apart; a dash where unknown."""
    if ratio is None:
        return "-"
    if low is None or high is None or low == high:
        return with_decimals(ratio, min(2, decimals_of(ratio)))
    decimals = min(2, decimals_of(high))
    if with_decimals(low, decimals) == with_decimals(
        high, decimals
    ):  # they would tell nothing of the interval
        decimals = max(decimals + 1, -math.floor(math.log10(high - low)))
    value, begin, end = (with_decimals(one, decimals) for one in (ratio, low, high))
    return f"{value} ({begin} to {end})"


CELLS: dict[str, Callable[[TuneRow], str]] = {
    "configuration": lambda row: row.name + (" (serve:)" if row.incumbent else ""),
    "result": fate,
    "req/s": lambda row: rate_cell(row.rate_rps),
    "predicted": lambda row: rate_cell(row.predicted_rps),
    "times serve:": lambda row: ratio_cell(row.over_serve, row.over_serve_low, row.over_serve_high),
    "p95 ms": lambda row: number_cell(row.p95_ms, 0),
    "MiB": lambda row: number_cell(row.memory_mib, 0),
    "agreement": lambda row: "-" if row.agreement is None else f"{row.agreement:.1%}",
    "rounds": lambda row: str(row.rounds),
}


def tune_table(rows: Sequence[TuneRow]) -> tuple[list[str], list[list[str]]]:
    """A head, and a row of cells for each configuration; columns without content are left out."""
    return without_empty(list(CELLS), [[cell(row) for cell in CELLS.values()] for row in rows], 2)
