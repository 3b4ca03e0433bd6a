"""Plot of all configurations: served and in-process rate; throughput and p95 latency by users."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from servebench.report.plots.style import (
    COLOURS,
    INVALID_LEGEND,
    USERS,
    any_invalid,
    line_style,
    plot_levels,
    set_log2_axes,
)
from servebench.report.results import Result


def comparison(results: Sequence[Result], slo_ms: float) -> Figure:
    """Best served rate against in-process; throughput and p95 latency by users."""
    figure, (bars, rate, latency) = plt.subplots(1, 3, figsize=(15, 4.8), layout="constrained")
    positions = range(len(results))
    bars.barh(
        positions,
        [result.pipeline.pipeline_rps for result in results],
        height=0.75,
        facecolor="none",
        edgecolor="black",
        hatch="///",
        linewidth=0.8,
        label="decode + model, in-process",
    )
    bars.barh(
        positions,
        [result.rps or 0.0 for result in results],
        height=0.45,
        color=COLOURS[1],
        xerr=_error_bars(results),
        capsize=3,
        label="served over HTTP, best level",
    )
    for position, result in zip(positions, results, strict=True):
        text = f"{result.rps:.0f}" if result.rps is not None else "no valid level"
        bars.text((result.rps or 0.0) * 0.03 + 1, position, text, va="center", color="white", weight="bold")
    bars.set_yticks(list(positions), [_label(result) for result in results])
    bars.invert_yaxis()
    bars.set_xlabel("images/s = requests/s")
    bars.set_title("Best level, 95% interval\n(left: time to start, memory of all processes)")
    bars.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, -0.32), ncols=1, frameon=False)

    users = sorted({level.users for result in results for level in result.levels})
    for number, result in enumerate(results):
        options = line_style(number)
        rates = [level.throughput_rps for level in result.levels]
        level_users = [level.users for level in result.levels]
        plot_levels(rate, level_users, rates, result.levels, **options, label=result.name)
        known = [(level, level.p95_ms) for level in result.levels if level.p95_ms is not None]
        levels, latencies = [level for level, _ in known], [p95_ms for _, p95_ms in known]
        plot_levels(latency, [level.users for level in levels], latencies, levels, **options)
    set_log2_axes(rate, USERS, "throughput, requests/s", users)
    set_log2_axes(latency, USERS, "p95 latency, ms", users)
    latency.axhline(slo_ms, color="0.4", linewidth=1)
    latency.annotate(f"objective {slo_ms:g} ms", (users[0], slo_ms), (3, 3), textcoords="offset points")
    rate.set_title("Throughput by concurrency" + (f"\n({INVALID_LEGEND})" if any_invalid(results) else ""))
    latency.set_title("p95 latency by concurrency")
    figure.legend(
        *rate.get_legend_handles_labels(), loc="outside lower right", ncols=len(results), fontsize=8
    )
    return figure


def _label(result: Result) -> str:
    """Name, seconds until it was ready, and memory."""
    return f"{result.name}\n{result.metrics['ready_s']:.1f} s, {result.metrics['memory_mib']} MiB"


def _error_bars(results: Sequence[Result]) -> list[list[float]]:
    """Distances from the best level's rate to the lower and the upper ends of its interval."""
    best = [result.best for result in results]
    return [
        [level.throughput_rps - level.low_rps if level else 0.0 for level in best],
        [level.high_rps - level.throughput_rps if level else 0.0 for level in best],
    ]
