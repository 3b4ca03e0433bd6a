"""PNG pictures that need neither colour nor a network: assets/results/."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter

from servebench.paths import PICTURES_FOLDER
from servebench.report.collect import Level, Result
from servebench.results import replacing

MARKERS = "osD^vPX*<>hp"
STYLES = ("-", "--", "-.", ":")
COLOURS = ("#111111", "#0b5fa5", "#c1440e", "#2e7d32", "#7b3fa0", "#8a6d00", "#5a5a5a")
DPI = 110


def draw_all(results: Sequence[Result], slo_ms: float) -> None:
    """One picture per configuration and one that compares all; pictures of others are removed."""
    drawn = {f"{result.name}.png" for result in results} | {"comparison.png"}
    for result in results:
        _save(_experiment(result), PICTURES_FOLDER / f"{result.name}.png")
    _save(_comparison(results, slo_ms), PICTURES_FOLDER / "comparison.png")
    for path in PICTURES_FOLDER.glob("*.png"):
        if path.name not in drawn:
            path.unlink()


def _save(figure: Figure, path: Path) -> None:
    with replacing(path) as temporary:
        # Without the library's version in the file, the same results make the same bytes.
        figure.savefig(temporary, format="png", dpi=DPI, metadata={"Software": None})
    plt.close(figure)


def _experiment(result: Result) -> Figure:
    """The study's three panels: throughput, CPU and GPU by batch size or concurrency."""
    figure, (rate, cpu, gpu) = plt.subplots(1, 3, figsize=(12, 3.8), layout="constrained")
    sizes = [row.batch_size for row in result.baseline]
    users = [level.users for level in result.levels]
    rate.plot(
        sizes,
        [r.model_rps for r in result.baseline],
        "k--s",
        mfc="w",
        label="model alone, in-process",
    )
    rate.plot(
        sizes,
        [r.pipeline_rps for r in result.baseline],
        "k:D",
        mfc="w",
        label="decode + model, in-process",
    )
    served = [level.throughput_rps for level in result.levels]
    spread = [
        [level.throughput_rps - level.low_rps for level in result.levels],
        [level.high_rps - level.throughput_rps for level in result.levels],
    ]
    rate.errorbar(users, served, yerr=spread, fmt="-o", color=COLOURS[1], capsize=3, label="served over HTTP")
    _axes(rate, "batch size, or users", "images/s = requests/s", sorted({*sizes, *users}))
    rate.legend(fontsize=8)
    _usage(cpu, result.levels, "CPU of the machine, %", lambda level: level.cpu_percent)
    _usage(gpu, result.levels, "GPU utilisation, %", lambda level: level.gpu_percent)
    s = result.serve
    figure.suptitle(
        f"{result.name}: {result.meta['dtype']}, max_batch_size {s.max_batch_size}, "
        f"batch_timeout {s.batch_timeout_s:g} s, workers {s.workers_per_device}"
    )
    return figure


def _usage(axes: Axes, levels: Sequence[Level], label: str, value: Callable[[Level], float | None]) -> None:
    users = [level.users for level in levels]
    points = [(level.users, y) for level in levels if (y := value(level)) is not None]
    _axes(axes, "users", label, users)
    axes.set_ylim(0, 105)
    if points:
        axes.plot(*zip(*points, strict=True), "-o", color=COLOURS[1])
    else:
        axes.text(0.5, 0.5, "not known on this machine", ha="center", transform=axes.transAxes)


def _comparison(results: Sequence[Result], slo_ms: float) -> Figure:
    """Best served rate against in-process; throughput and p95 latency by users."""
    figure, (bars, rate, latency) = plt.subplots(1, 3, figsize=(15, 4.8), layout="constrained")
    places = range(len(results))
    bars.barh(
        places,
        [result.pipeline_rps for result in results],
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
        look: dict[str, Any] = {
            "marker": MARKERS[number % len(MARKERS)],
            "linestyle": STYLES[number % len(STYLES)],
            "color": COLOURS[number % len(COLOURS)],
            "mfc": "w",
            "label": result.name,
        }
        rate.plot([v.users for v in result.levels], [v.throughput_rps for v in result.levels], **look)
        known = [(v.users, v.p95_ms) for v in result.levels if v.p95_ms is not None]
        latency.plot(*(zip(*known, strict=True) if known else ([], [])), **look)
    _axes(rate, "users (requests under way at once)", "throughput, requests/s", users)
    _axes(latency, "users (requests under way at once)", "p95 latency, ms", users)
    latency.axhline(slo_ms, color="0.4", linewidth=1)
    latency.annotate(f"objective {slo_ms:g} ms", (users[0], slo_ms), (3, 3), textcoords="offset points")
    rate.set_title("Throughput by concurrency")
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


def _axes(axes: Axes, x_label: str, y_label: str, ticks: Sequence[int]) -> None:
    """A logarithmic axis with a tick at each measured place; the other one from zero."""
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(list(ticks)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.set_ylim(bottom=0)
    axes.set_xlim(ticks[0] / 1.3, ticks[-1] * 1.3)
    axes.grid(alpha=0.3)
