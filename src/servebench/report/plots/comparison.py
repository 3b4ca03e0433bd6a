"""All configurations: best served rate against in-process; throughput and p95 latency by users."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from servebench.report.plots.style import (
    COLOURS,
    INVALID_LEGEND,
    USERS,
    any_invalid,
    axes_by_number,
    curve,
    line_style,
)
from servebench.report.results import Result


def comparison(results: Sequence[Result], slo_p95_ms: float) -> Figure:
    """Best served rate against in-process; throughput and p95 latency by users."""
    figure, (bars, rate, latency) = plt.subplots(1, 3, figsize=(15, 4.8), layout="constrained")
    places = range(len(results))
    bars.barh(
        places,
        [result.pipeline.pipeline_rps for result in results],
        height=0.75,
        facecolor="none",
        edgecolor="black",
        hatch="///",
        linewidth=0.8,
        label="decode + model, in-process",
    )
    bars.barh(
        places,
        [result.rps or 0.0 for result in results],
        height=0.45,
        color=COLOURS[1],
        xerr=_best_spread(results),
        capsize=3,
        label="served over HTTP, best level",
    )
    for place, result in zip(places, results, strict=True):
        text = f"{result.rps:.0f}" if result.rps is not None else "no valid level"
        bars.text((result.rps or 0.0) * 0.03 + 1, place, text, va="center", color="white", weight="bold")
    bars.set_yticks(list(places), [result.name for result in results])
    bars.invert_yaxis()
    bars.set_xlabel("images/s = requests/s")
    bars.set_title("Best level, 95% interval")
    bars.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, -0.32), ncols=1, frameon=False)

    users = sorted({level.users for result in results for level in result.levels})
    for number, result in enumerate(results):
        options = line_style(number)
        rates = [level.throughput_rps for level in result.levels]
        curve(rate, [v.users for v in result.levels], rates, result.levels, **options, label=result.name)
        known = [(v, v.p95_ms) for v in result.levels if v.p95_ms is not None]
        levels, latencies = [v for v, _ in known], [p95 for _, p95 in known]
        curve(latency, [v.users for v in levels], latencies, levels, **options)
    axes_by_number(rate, USERS, "throughput, requests/s", users)
    axes_by_number(latency, USERS, "p95 latency, ms", users)
    latency.axhline(slo_p95_ms, color="0.4", linewidth=1)
    latency.annotate(
        f"objective {slo_p95_ms:g} ms", (users[0], slo_p95_ms), (3, 3), textcoords="offset points"
    )
    rate.set_title("Throughput by concurrency" + (f"\n({INVALID_LEGEND})" if any_invalid(results) else ""))
    latency.set_title("p95 latency by concurrency")
    figure.legend(
        *rate.get_legend_handles_labels(), loc="outside lower right", ncols=len(results), fontsize=8
    )
    return figure


def _best_spread(results: Sequence[Result]) -> list[list[float]]:
    spread: list[list[float]] = [[], []]
    for result in results:
        best = result.best
        spread[0].append(best.throughput_rps - best.low_rps if best else 0.0)
        spread[1].append(best.high_rps - best.throughput_rps if best else 0.0)
    return spread
