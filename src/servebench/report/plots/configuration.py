"""Plot of one configuration: throughput, CPU and GPU by batch size or concurrency."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from servebench.benchmark.rows import LevelRow
from servebench.report.plots.style import COLOURS, INVALID_LEGEND, plot_levels, set_log2_axes
from servebench.report.results import Result


def configuration(result: Result) -> Figure:
    """Three panels: throughput, CPU and GPU by batch size or concurrency."""
    figure, (rate, cpu, gpu) = plt.subplots(1, 3, figsize=(12, 3.8), layout="constrained")
    sizes = [row.batch_size for row in result.baseline]
    users = [level.users for level in result.levels]
    rate.plot(
        sizes,
        [r.model_rps for r in result.baseline],
        "k--s",
        label="model alone, in-process",
    )
    rate.plot(
        sizes,
        [r.pipeline_rps for r in result.baseline],
        "k:D",
        label="decode + model, in-process",
    )
    served = [level.throughput_rps for level in result.levels]
    spread = [
        [level.throughput_rps - level.low_rps for level in result.levels],
        [level.high_rps - level.throughput_rps for level in result.levels],
    ]
    rate.errorbar(users, served, yerr=spread, fmt="none", ecolor=COLOURS[1], capsize=3)
    line = {"marker": "o", "color": COLOURS[1], "label": "served over HTTP"}
    plot_levels(rate, users, served, result.levels, **line)
    set_log2_axes(rate, "batch size, or users", "images/s = requests/s", sorted({*sizes, *users}))
    rate.legend(fontsize=8)
    _usage(cpu, result.levels, "CPU of the machine, %", lambda level: level.cpu_percent)
    _usage(gpu, result.levels, "GPU utilisation, %", lambda level: level.gpu_percent)
    serve = result.serve
    figure.suptitle(
        f"{result.name}: {result.run['dtype']}, max_batch_size {serve.max_batch_size}, "
        f"batch_timeout {serve.batch_timeout_s:g} s, workers {serve.workers_per_device}"
    )
    doubts = [f"{level.users} users: {level.invalid_reason}" for level in result.levels if not level.valid]
    if doubts:
        figure.supxlabel("\n".join([INVALID_LEGEND, *doubts]), fontsize=8)
    return figure


def _usage(
    axes: Axes, levels: Sequence[LevelRow], label: str, percent_of: Callable[[LevelRow], float | None]
) -> None:
    """A usage in percent by users; a note where it is unknown."""
    points = [(level, percent) for level in levels if (percent := percent_of(level)) is not None]
    set_log2_axes(axes, "users", label, [level.users for level in levels])
    axes.set_ylim(0, 105)
    if points:
        known, percents = zip(*points, strict=True)
        plot_levels(axes, [level.users for level in known], percents, known, marker="o", color=COLOURS[1])
    else:
        axes.text(0.5, 0.5, "not known on this machine", ha="center", transform=axes.transAxes)
