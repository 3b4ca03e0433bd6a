"""Stage ``report``: collect, compare, decide, draw."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from servebench.params import CANDIDATE, load_params
from servebench.paths import EFFICIENCY, LEVELS, SUMMARY
from servebench.report.collect import Level, Result, collect
from servebench.report.pictures import draw_all
from servebench.results import rounded, write_csv, write_json


def main() -> None:
    """Write the summary, the plots' data and the pictures; print the comparison."""
    params = load_params()
    results = collect(params)
    slo_ms = params.load.slo_p95_ms
    compared = summary(results, slo_ms)
    write_csv(LEVELS, level_rows(results))
    write_csv(EFFICIENCY, efficiency_rows(results))
    draw_all(results, slo_ms)
    write_json(SUMMARY, compared)
    print(table(results))
    print(verdict(compared, slo_ms))


def short_names(names: Sequence[str]) -> dict[str, str]:
    """What stands before the first underscore, where that is unique: e1 for e1_baseline."""
    stems = {name: name.split("_")[0] for name in names}
    counts = list(stems.values())
    return {name: stem if counts.count(stem) == 1 else name for name, stem in stems.items()}


def summary(results: Sequence[Result], slo_ms: float) -> dict[str, Any]:
    """One flat object whose keys occur nowhere else in the project, so `dvc exp show` reads well.

    The best experiment, and the best that keeps p95 below ``slo_ms`` at some level, are chosen
    among the experiments; the candidate stands beside them.
    """
    short = short_names([result.name for result in results])
    rates = {f"{short[result.name]}_rps": result.rps for result in results}
    experiments = [result for result in results if result.name != CANDIDATE]
    measured = [result for result in experiments if result.rps is not None]
    best = max(measured, key=lambda result: result.rps or 0.0, default=None)
    first = experiments[0]
    gain = best.rps / first.rps if best and best.rps and first.rps else None
    kept = {r.name: level for r in experiments if (level := best_within(r, slo_ms))}
    within = max(kept, key=lambda name: kept[name].throughput_rps, default=None)
    return {
        **rates,
        "best": best.name if best else None,
        "best_gain": rounded(gain, 2),
        "best_within_slo": within,
        "within_slo_rps": kept[within].throughput_rps if within else None,
        "within_slo_users": kept[within].users if within else None,
    }


def best_within(result: Result, slo_ms: float) -> Level | None:
    """The fastest valid level whose p95 is known and below ``slo_ms``."""
    levels = [
        level
        for level in result.levels
        if level.valid and level.p95_ms is not None and level.p95_ms <= slo_ms
    ]
    return max(levels, key=lambda level: level.throughput_rps, default=None)


def level_rows(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Every level of every configuration: one long table for the plots."""
    return [
        {
            "experiment": result.name,
            "users": level.users,
            "throughput_rps": level.throughput_rps,
            "p50_ms": level.p50_ms,
            "p95_ms": level.p95_ms,
            "p99_ms": level.p99_ms,
            "valid": level.valid,
        }
        for result in results
        for level in result.levels
    ]


def efficiency_rows(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Served rate over in-process rate, by configuration."""
    return [{"experiment": result.name, "efficiency": result.metrics["efficiency"]} for result in results]


def table(results: Sequence[Result]) -> str:
    """The comparison for a terminal."""
    head = f"{'experiment':16} {'req/s':>7} {'users':>6} {'p50 ms':>8} {'p95 ms':>8} {'p99 ms':>8}"
    lines = [f"{head} {'in-process':>11} {'efficiency':>11}"]
    for result in results:
        metrics = result.metrics
        values = [
            (metrics["throughput_rps"], 7, 1),
            (metrics["users"], 6, 0),
            (metrics["p50_ms"], 8, 1),
            (metrics["p95_ms"], 8, 1),
            (metrics["p99_ms"], 8, 1),
            (result.pipeline_rps, 11, 1),
            (metrics["efficiency"], 11, 2),
        ]
        cells = [
            f"{'-':>{width}}" if value is None else f"{value:>{width}.{digits}f}"
            for value, width, digits in values
        ]
        lines.append(" ".join([f"{result.name:16}", *cells]))
    return "\n".join(lines)


def verdict(compared: dict[str, Any], slo_ms: float) -> str:
    """Which experiment is fastest, and which to ship under the latency objective."""
    if compared["best"] is None:
        return "No experiment has a valid level"
    lines = [f"Fastest: {compared['best']}"]
    if compared["best_gain"] is not None:
        lines[0] += f", {compared['best_gain']:.2f} times the rate of the first experiment"
    if compared["best_within_slo"]:
        lines.append(
            f"Fastest with p95 below {slo_ms:g} ms: {compared['best_within_slo']}, "
            f"{compared['within_slo_rps']:.1f} req/s at {compared['within_slo_users']} users"
        )
    else:
        lines.append(f"No experiment keeps p95 below {slo_ms:g} ms at any level")
    return "\n".join(lines)
