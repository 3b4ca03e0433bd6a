"""The comparison in sentences, and as a table of the documents."""

from __future__ import annotations

from collections.abc import Sequence

from servebench.benchmark.rows import ComparisonRow
from servebench.errors import ReportError
from servebench.params import Params
from servebench.paths import COMPARISON
from servebench.system.tables import pluralise


def compared_rows(rows: Sequence[ComparisonRow], params: Params) -> list[ComparisonRow]:
    """Of the whole comparison, the rows at its first load, in the order of params.yaml.

    Raises:
        ReportError: a configuration of params.yaml has none.
    """
    users = params.comparison.users[0]
    found = {row.experiment: row for row in rows if row.users == users}
    missing = [name for name in params.configurations() if name not in found]
    if missing:
        raise ReportError(
            f"{COMPARISON} has no row at {pluralise(users, 'user')} of {', '.join(missing)}; "
            "`dvc repro comparison` makes it"
        )
    return [found[name] for name in params.configurations()]


def verdict(rows: Sequence[ComparisonRow], params: Params) -> list[str]:
    """Which configuration is fastest, and which is the fastest to ship: a sentence each."""
    found = sentences(rows, params.comparison.reference)
    slo_p95_ms = params.objective.slo_p95_ms
    kept = [row for row in rows if row.ratio and row.p95_ms is not None and row.p95_ms <= slo_p95_ms]
    if not kept:
        return [*found, f"None is known to keep its p95 below {slo_p95_ms:g} ms."]
    best = min(kept, key=lambda row: (row.rank or 0, -(row.ratio or 0.0)))
    return [
        *found,
        f"Fastest with p95 below {slo_p95_ms:g} ms: {best.experiment}, {best.p95_ms:.0f} ms.",
    ]


def sentences(rows: Sequence[ComparisonRow], reference: str) -> list[str]:
    """Which are fastest, by how much, and what cannot be told apart; ``rows`` are of one load."""
    ranked = sorted((row for row in rows if row.rank), key=lambda row: (row.rank or 0, -(row.ratio or 0.0)))
    if not ranked:
        return ["No configuration could be compared: the reference answered nothing."]
    leaders = [row for row in ranked if row.rank == 1]
    users = pluralise(ranked[0].users, "user")
    names = [row.experiment for row in leaders]
    if len(leaders) == 1:
        found = [f"Fastest at {users}: {names[0]}, {times(leaders[0], reference)}."]
    else:
        together = f"{', '.join(names[:-1])} and {names[-1]}"
        found = [
            f"Fastest at {users}: {together}, between which no difference is resolved; "
            f"{names[0]} serves {times(leaders[0], reference)}."
        ]
    silent = [row.experiment for row in rows if not row.rank]
    if silent:
        found.append(f"Without an answer in any round: {', '.join(silent)}.")
    return found


def times(row: ComparisonRow, reference: str) -> str:
    """How many times the reference's rate, with its interval."""
    if row.experiment == reference:
        return f"{row.rate_rps:.1f} req/s"
    interval = "" if row.ratio_low is None else f" ({row.ratio_low:.2f} to {row.ratio_high:.2f})"
    return f"{row.rate_rps:.1f} req/s, {row.ratio:.2f} times {reference}{interval}"
