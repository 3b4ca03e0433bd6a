"""Stage ``report``: collect, compare, decide, draw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from servebench.params import CANDIDATE, load_params
from servebench.paths import (
    BATCHES,
    CEILINGS,
    EFFICIENCY,
    LADDER,
    LADDERS_FOLDER,
    LEVELS,
    LIMITS,
    STAGES,
    SUMMARY,
)
from servebench.report.bottleneck import bottleneck
from servebench.report.collect import Level, Result, collect
from servebench.report.ladder import Rung, ladder, measuring_errors
from servebench.report.limit import Limit, counted
from servebench.report.pictures import draw_all
from servebench.report.tables import (
    BATCH_FIELDS,
    STAGE_FIELDS,
    batch_rows,
    efficiency_rows,
    ladder_rows,
    level_rows,
    limit_rows,
    remarks,
    rung_rows,
    stage_rows,
    table,
)
from servebench.results import read_json, rounded, together, write_csv, write_json


@dataclass(frozen=True)
class Explained:
    """Why each configuration is as fast as it is, by name.

    Attributes:
        errors: rungs that cannot be true, one line each.
    """

    ladders: Mapping[str, Sequence[Rung]]
    limits: Mapping[str, Limit]
    errors: Sequence[str]


def main() -> None:
    """Write the summary, the plots' data and the pictures; print the comparison."""
    params = load_params()
    results = collect(params)
    slo_ms = params.load.slo_p95_ms
    compared = summary(results, slo_ms)
    explained = explain(results, read_json(CEILINGS))
    with together():
        write_tables(results, explained)
        draw_all(results, explained.ladders, slo_ms)
        write_json(SUMMARY, compared)
    print(table(results))
    for line in [*remarks(results), *explained.errors]:
        print(line)
    for name, limit in explained.limits.items():
        print(f"{name}: {limit.text}")
    print(verdict(compared, slo_ms))


def explain(results: Sequence[Result], ceilings: Mapping[str, Any]) -> Explained:
    """Ladder, limit and errors of measuring of every configuration."""
    ladders = {result.name: ladder(result, ceilings) for result in results}
    return Explained(
        ladders=ladders,
        limits={result.name: bottleneck(result, ladders[result.name], ceilings) for result in results},
        errors=[error for name, rungs in ladders.items() for error in measuring_errors(name, rungs)],
    )


def write_tables(results: Sequence[Result], explained: Explained) -> None:
    """The plots' data; ladders of configurations that are no more are removed."""
    write_csv(LEVELS, level_rows(results))
    write_csv(EFFICIENCY, efficiency_rows(results))
    write_csv(LADDER, ladder_rows(explained.ladders))
    write_csv(LIMITS, limit_rows(explained.limits))
    write_csv(STAGES, stage_rows(results), STAGE_FIELDS)
    write_csv(BATCHES, batch_rows(results), BATCH_FIELDS)
    for name, rungs in explained.ladders.items():
        write_csv(LADDERS_FOLDER / f"{name}.csv", rung_rows(rungs))
    for path in LADDERS_FOLDER.glob("*.csv"):
        if path.stem not in explained.ladders:
            path.unlink()


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
    measured = [result for result in experiments if result.best and result.best.valid]
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
            f"{compared['within_slo_rps']:.1f} req/s at {counted(compared['within_slo_users'], 'user')}"
        )
    else:
        lines.append(f"No experiment keeps p95 below {slo_ms:g} ms at any level")
    return "\n".join(lines)
