"""From the turns of a comparison to its rows: rates, ratios with intervals, ranks, latencies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from servebench.benchmark.rows import ComparisonRow, TurnRow
from servebench.params import ComparisonSettings
from servebench.stats.comparison import ranks, ratios
from servebench.stats.rates import percentile, percentile_interval_of_blocks
from servebench.system.files import rounded
from servebench.system.tables import number_cell, text_table

Latencies = Mapping[tuple[int, str], list[npt.NDArray[np.float64]]]
"""By users and configuration, the latencies of each of its turns, ms."""
METRICS = (
    "rate_rps",
    "ratio",
    "ratio_low",
    "ratio_high",
    "rank",
    "p50_ms",
    "p95_ms",
    "p95_low_ms",
    "p95_high_ms",
    "rounds",
)
"""Of a row, what metrics/comparison/NAME.json holds."""


def comparison_rows(
    settings: ComparisonSettings,
    names: Sequence[str],
    turns: Sequence[TurnRow],
    latencies: Latencies,
    kept: Sequence[ComparisonRow],
) -> list[ComparisonRow]:
    """One row per load and configuration; loads that are not compared have neither ratios nor ranks."""
    earlier = {(row.users, row.experiment): row for row in kept}
    rows = []
    for users in sorted({turn.users for turn in turns}):
        own = [turn for turn in turns if turn.users == users]
        rounds = sorted({turn.round for turn in own})
        found = {(turn.experiment, turn.round): turn.rate_rps for turn in own}
        rates = {name: [found.get((name, number)) for number in rounds] for name in names}
        of_reference = rates[settings.reference]
        answering = {
            name: own
            for name, own in rates.items()
            if any(rate and known for rate, known in zip(own, of_reference, strict=True))
        }
        compared = users in settings.users and settings.reference in answering
        by_ratio = ratios(answering, settings.reference) if compared else {}
        by_rank = ranks(answering, settings.reference) if compared else {}
        for name in names:
            known = [rate for rate in rates[name] if rate is not None]
            ratio = by_ratio.get(name)
            before = earlier.get((users, name))
            blocks = latencies.get((users, name))
            rows.append(
                ComparisonRow(
                    users=users,
                    experiment=name,
                    rate_rps=round(float(np.exp(np.mean(np.log(known)))), 2) if known else None,
                    lowest_rps=rounded(min(known, default=None), 2),
                    highest_rps=rounded(max(known, default=None), 2),
                    ratio=rounded(ratio.ratio, 4) if ratio else None,
                    ratio_low=rounded(ratio.low, 4) if ratio else None,
                    ratio_high=rounded(ratio.high, 4) if ratio else None,
                    rank=by_rank.get(name),
                    **(latency_columns(blocks) if blocks else latencies_of(before)),
                    rounds=sum(turn.experiment == name for turn in own),
                    earlier=not blocks,
                )
            )
    return rows


def latency_columns(blocks: Sequence[npt.NDArray[np.float64]]) -> dict[str, float | None]:
    """p50 and p95 of all turns together, the latter with an interval over turns."""
    pooled = np.concatenate(blocks)
    low, high = percentile_interval_of_blocks(blocks, 95) or (None, None)
    return {
        "p50_ms": rounded(percentile(pooled, 50), 2),
        "p95_ms": rounded(percentile(pooled, 95), 2),
        "p95_low_ms": rounded(low, 2),
        "p95_high_ms": rounded(high, 2),
    }


def latencies_of(row: ComparisonRow | None) -> dict[str, float | None]:
    """The same of an earlier row."""
    keys = ("p50_ms", "p95_ms", "p95_low_ms", "p95_high_ms")
    return {key: getattr(row, key) if row else None for key in keys}


def metrics_of(row: ComparisonRow) -> dict[str, float | int | None]:
    """The row as metrics/comparison/NAME.json has it."""
    keys = (
        "rate_rps",
        "ratio",
        "ratio_low",
        "ratio_high",
        "rank",
        "p50_ms",
        "p95_ms",
        "p95_low_ms",
        "p95_high_ms",
    )
    return {key: getattr(row, key) for key in keys} | {"rounds": row.rounds}


def table(rows: Sequence[ComparisonRow]) -> str:
    """The comparison for a terminal, fastest first."""
    head = ["configuration", "users", "rank", "req/s", "ratio", "95% interval", "p95 ms", "rounds"]
    cells = [
        [
            row.experiment + (" (earlier)" if row.earlier else ""),
            str(row.users),
            str(row.rank),
            number_cell(row.rate_rps, 1),
            number_cell(row.ratio, 2),
            "-" if row.ratio_low is None else f"{row.ratio_low:.2f} to {row.ratio_high:.2f}",
            number_cell(row.p95_ms, 0),
            str(row.rounds),
        ]
        for row in sorted(rows, key=lambda row: (row.users, row.rank or 0, -(row.ratio or 0.0)))
    ]
    return text_table(head, cells)
