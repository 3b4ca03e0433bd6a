"""Summary of all configurations: their rates, the fastest, and the fastest within the latency objective."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from servebench.benchmark.rows import LevelRow
from servebench.params import CANDIDATE
from servebench.report.results import Result
from servebench.system.files import rounded
from servebench.system.tables import pluralise


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Each name up to its first underscore, where that is unique: e1 for e1_baseline."""
    prefixes = {name: name.split("_")[0] for name in names}
    counts = Counter(prefixes.values())
    return {name: prefix if counts[prefix] == 1 else name for name, prefix in prefixes.items()}


def rates(results: Sequence[Result]) -> dict[str, float | None]:
    """Requests per second at each configuration's best level, three significant digits.

    DVC shows them as its metrics: one short key per configuration is a readable `dvc exp show`.
    """
    short = short_names([result.name for result in results])
    by_name = {short[result.name]: significant(result.rps) for result in results}
    # The candidate, which `-S serve.…` changes, comes first: a terminal cuts off the last columns.
    return {CANDIDATE: by_name.pop(CANDIDATE), **by_name}


def significant(value: float | None) -> float | None:
    """``value`` with three significant digits, None as it is."""
    return None if value is None else float(f"{value:.3g}")


def best_configurations(results: Sequence[Result], slo_p95_ms: float) -> dict[str, Any]:
    """The fastest configuration, and the fastest that keeps its p95 below ``slo_p95_ms`` at some level.

    Both are chosen among all that were measured, the candidate included; the gain is over the first.
    """
    measured = [result for result in results if result.best and result.best.valid]
    fastest = max(measured, key=lambda result: result.rps or 0.0, default=None)
    first = results[0]
    gain = fastest.rps / first.rps if fastest and fastest.rps and first.rps else None
    within_slo = {r.name: level for r in results if (level := best_within(r, slo_p95_ms))}
    name = max(within_slo, key=lambda name: within_slo[name].throughput_rps, default=None)
    return {
        "best": fastest.name if fastest else None,
        "best_gain": rounded(gain, 2),
        "best_within_slo": name,
        "within_slo_rps": within_slo[name].throughput_rps if name else None,
        "within_slo_users": within_slo[name].users if name else None,
    }


def best_within(result: Result, slo_p95_ms: float) -> LevelRow | None:
    """The fastest valid level whose p95 is known and below ``slo_p95_ms``."""
    levels = [
        level
        for level in result.levels
        if level.valid and level.p95_ms is not None and level.p95_ms <= slo_p95_ms
    ]
    return max(levels, key=lambda level: level.throughput_rps, default=None)


def verdict(best: dict[str, Any], slo_p95_ms: float) -> list[str]:
    """Which configuration is fastest, and which to ship under the objective: a sentence each.

    Args:
        best: from ``best_configurations``.
    """
    if best["best"] is None:
        return ["No configuration has a valid level."]
    gain = "" if best["best_gain"] is None else f", {best['best_gain']:.2f} times the rate of the first"
    sentences = [f"Fastest: {best['best']}{gain}."]
    if best["best_within_slo"]:
        sentences.append(
            f"Fastest with p95 below {slo_p95_ms:g} ms: {best['best_within_slo']}, "
            f"{best['within_slo_rps']:.1f} req/s at {pluralise(best['within_slo_users'], 'user')}."
        )
    else:
        sentences.append(f"No configuration keeps p95 below {slo_p95_ms:g} ms at any level.")
    return sentences
