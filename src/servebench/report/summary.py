"""The comparison in a few numbers: a rate per configuration, the fastest, and the fastest to ship."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from servebench.benchmark.rows import LevelRow
from servebench.params import CANDIDATE
from servebench.report.results import Result
from servebench.system.files import rounded
from servebench.system.tables import pluralise


def short_names(names: Sequence[str]) -> dict[str, str]:
    """What stands before the first underscore, where that is unique: e1 for e1_baseline."""
    stems = {name: name.split("_")[0] for name in names}
    counts = list(stems.values())
    return {name: stem if counts.count(stem) == 1 else name for name, stem in stems.items()}


def rates(results: Sequence[Result]) -> dict[str, float | None]:
    """Requests per second at each configuration's best level, three significant digits.

    The one file that DVC shows as metrics: a key per configuration, so that `dvc exp show` reads well.
    """
    short = short_names([result.name for result in results])
    found = {short[result.name]: significant(result.rps) for result in results}
    # First, as a terminal cuts off the last: the candidate is what `-S serve.…` changes.
    return {CANDIDATE: found.pop(CANDIDATE), **found}


def significant(value: float | None) -> float | None:
    """``value`` with three significant digits, None as it is."""
    return None if value is None else float(f"{value:.3g}")


def best(results: Sequence[Result], slo_p95_ms: float) -> dict[str, Any]:
    """The fastest configuration, and the fastest that keeps its p95 below ``slo_p95_ms`` at some level.

    Both are chosen among all that were measured, the candidate included; the gain is over the first.
    """
    measured = [result for result in results if result.best and result.best.valid]
    fastest = max(measured, key=lambda result: result.rps or 0.0, default=None)
    first = results[0]
    gain = fastest.rps / first.rps if fastest and fastest.rps and first.rps else None
    kept = {r.name: level for r in results if (level := best_within(r, slo_p95_ms))}
    within = max(kept, key=lambda name: kept[name].throughput_rps, default=None)
    return {
        "best": fastest.name if fastest else None,
        "best_gain": rounded(gain, 2),
        "best_within_slo": within,
        "within_slo_rps": kept[within].throughput_rps if within else None,
        "within_slo_users": kept[within].users if within else None,
    }


def best_within(result: Result, slo_p95_ms: float) -> LevelRow | None:
    """The fastest valid level whose p95 is known and below ``slo_p95_ms``."""
    levels = [
        level
        for level in result.levels
        if level.valid and level.p95_ms is not None and level.p95_ms <= slo_p95_ms
    ]
    return max(levels, key=lambda level: level.throughput_rps, default=None)


def verdict(found: dict[str, Any], slo_p95_ms: float) -> list[str]:
    """Which configuration is fastest, and which to ship under the objective: a sentence each.

    Args:
        found: what ``best`` returned.
    """
    if found["best"] is None:
        return ["No configuration has a valid level."]
    gain = "" if found["best_gain"] is None else f", {found['best_gain']:.2f} times the rate of the first"
    lines = [f"Fastest: {found['best']}{gain}."]
    if found["best_within_slo"]:
        lines.append(
            f"Fastest with p95 below {slo_p95_ms:g} ms: {found['best_within_slo']}, "
            f"{found['within_slo_rps']:.1f} req/s at {pluralise(found['within_slo_users'], 'user')}."
        )
    else:
        lines.append(f"No configuration keeps p95 below {slo_p95_ms:g} ms at any level.")
    return lines
