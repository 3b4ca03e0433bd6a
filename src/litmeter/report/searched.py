"""What a search has found, in tables and sentences."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from litmeter.report.snapshot import Tuned
from litmeter.say.tables import markdown_table, number_cell, pluralise, rate_cell, ratio_cell, without_empty
from litmeter.tune.rows import KnobRow, Status, TuneRow

NOT_SLOWER: tuple[Status, ...] = ("winner", "equal", "not resolved")


def fate(row: TuneRow) -> str:
    """What became of a configuration, and when it left where it was slower."""
    left = row.status == "slower" and row.eliminated_after_rounds is not None
    return row.reason or row.status + (f", left after {row.eliminated_after_rounds} rounds" if left else "")


def at_users(users: int) -> str:
    """For how many users a search holds: with more or fewer of them other settings may be faster."""
    return f"fastest at {pluralise(users, 'user')}; with more or fewer others may be"


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


def searched_tables(rows: Sequence[TuneRow], knobs: Sequence[KnobRow]) -> tuple[str, str]:
    """Those that raced and are not slower, and what another value of one key would be worth."""
    finalists = [row for row in rows if row.status in NOT_SLOWER]
    worth = [
        [f"`{row.knob}`", row.value, ratio_cell(row.ratio, row.ratio_low, row.ratio_high), row.source]
        for row in knobs
    ]
    head = ["key", "value", "times the winner's rate", "source"]
    return markdown_table(*tune_table(finalists), 2), markdown_table(head, worth, 2)


def tuned_text(tuned: Tuned) -> str:
    """Who won, how much it gains, what cannot be told from it, and how well rates were predicted."""
    metrics, rows = tuned.metrics, tuned.rows
    winner, incumbent = rows[0], next(row for row in rows if row.incumbent)
    text = (
        f"Of {metrics['combinations']:,} combinations {metrics['raced']} raced, for "
        f"{pluralise(metrics['rounds'], 'round')} at {pluralise(metrics['users'], 'user')}. "
        f"`{winner.name}` won with {rate_cell(winner.rate_rps)} req/s, "
        f"{ratio_cell(winner.over_serve, winner.over_serve_low, winner.over_serve_high)} times `serve:`, "
        f"which was `{incumbent.name}` then"
    )
    if winner.agreement is not None:
        text += f", and gives {winner.agreement:.1%} of the photos not trained on full precision's label"
    text += f". {at_users(metrics['users']).capitalize()}."
    for status, said in (("equal", "As fast within 3%"), ("not resolved", "Not resolved from the fastest")):
        if names := [f"`{row.name}`" for row in rows if row.status == status]:
            text += f" {said}: {', '.join(names)}."
    if metrics["model_error"] is None:
        return f"{text} No rate was predicted."
    return f"{text} Predicted ratios were off by {metrics['model_error']:.0%} (standard deviation)."
