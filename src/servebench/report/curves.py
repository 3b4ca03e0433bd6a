"""Latency over throughput, and batch size over concurrency, of all configurations."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator, ScalarFormatter

from servebench.report.collect import Result
from servebench.report.drawing import HOLLOW, USERS, any_hollow, axes_by_number, curve, look


def latency_curves(results: Sequence[Result], slo_ms: float) -> Figure:
    """p95 latency over throughput, a point per level with its users; levels without a p95 are left out."""
    figure, axes = plt.subplots(figsize=(8.5, 5.2), layout="constrained")
    for number, result in enumerate(results):
        points = [(v, v.throughput_rps, v.p95_ms) for v in result.levels if v.p95_ms is not None]
        rates, latencies = [rate for _, rate, _ in points], [p95 for _, _, p95 in points]
        curve(axes, rates, latencies, [v for v, _, _ in points], **look(number), label=result.name)
        for level, rate, latency in points:
            axes.annotate(
                f"{level.users}", (rate, latency), (5, 4), textcoords="offset points", fontsize=8, color="0.3"
            )
    axes.axhline(slo_ms, color="0.4", linewidth=1)
    axes.annotate(
        f"objective {slo_ms:g} ms",
        (0, slo_ms),
        (4, 3),
        textcoords="offset points",
        xycoords=("axes fraction", "data"),
    )
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(ScalarFormatter())
    axes.set_xlim(left=0)
    axes.set_xlabel("throughput, requests/s")
    axes.set_ylabel("p95 latency, ms (logarithmic)")
    axes.set_title("Latency over throughput; the numbers are users" + _note(results), fontsize=10)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=4, fontsize=9)
    return figure


def batch_sizes(results: Sequence[Result]) -> Figure:
    """Mean batch size by users, of configurations that collect batches."""
    figure, axes = plt.subplots(figsize=(8.5, 4.6), layout="constrained")
    users = sorted({level.users for result in results for level in result.levels})
    for number, result in enumerate(results):
        points = [(v, v.batch_size) for v in result.levels if v.batch_size is not None]
        levels, sizes = [v for v, _ in points], [size for _, size in points]
        curve(axes, [v.users for v in levels], sizes, levels, **look(number), label=result.name)
    axes_by_number(axes, USERS, "mean batch size, images", users)
    axes.set_title("Batch size by concurrency" + _note(results), fontsize=10)
    figure.legend(loc="outside lower center", ncols=4, fontsize=9)
    return figure


def _note(results: Sequence[Result]) -> str:
    return f" ({HOLLOW})" if any_hollow(results) else ""
