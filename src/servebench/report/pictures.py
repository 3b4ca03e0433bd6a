"""PNG pictures of the results: assets/results/."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from servebench.paths import PICTURES_FOLDER
from servebench.report.collect import Level, Result
from servebench.report.curves import batch_sizes, latency_curves
from servebench.report.drawing import COLOURS, HOLLOW, USERS, any_hollow, axes_by_number, curve, look, save
from servebench.report.ladder import Rung
from servebench.report.waterfall import stages, waterfall


def draw_all(results: Sequence[Result], ladders: Mapping[str, Sequence[Rung]], slo_ms: float) -> None:
    """One picture per configuration and those that compare all; pictures of others are removed."""
    figures = {result.name: _experiment(result) for result in results} | {
        "comparison": _comparison(results, slo_ms),
        "waterfall": waterfall(ladders),
        "stages": stages(results),
        "latency": latency_curves(results, slo_ms),
        "batch_sizes": batch_sizes(results),
    }
    for name, figure in figures.items():
        save(figure, PICTURES_FOLDER / f"{name}.png")
    for path in PICTURES_FOLDER.glob("*.png"):
        if path.stem not in figures:
            path.unlink()


def _experiment(result: Result) -> Figure:
    """The study's three panels: throughput, CPU and GPU by batch size or concurrency."""
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
    curve(rate, users, served, result.levels, **line)
    axes_by_number(rate, "batch size, or users", "images/s = requests/s", sorted({*sizes, *users}))
    rate.legend(fontsize=8)
    _usage(cpu, result.levels, "CPU of the machine, %", lambda level: level.cpu_percent)
    _usage(gpu, result.levels, "GPU utilisation, %", lambda level: level.gpu_percent)
    s = result.serve
    figure.suptitle(
        f"{result.name}: {result.meta['dtype']}, max_batch_size {s.max_batch_size}, "
        f"batch_timeout {s.batch_timeout_s:g} s, workers {s.workers_per_device}"
    )
    doubts = [f"{level.users} users: {level.why}" for level in result.levels if not level.valid]
    if doubts:
        figure.supxlabel("\n".join(["hollow: not valid", *doubts]), fontsize=8)
    return figure


def _usage(axes: Axes, levels: Sequence[Level], label: str, value: Callable[[Level], float | None]) -> None:
    users = [level.users for level in levels]
    points = [(level, y) for level in levels if (y := value(level)) is not None]
    axes_by_number(axes, "users", label, users)
    axes.set_ylim(0, 105)
    if points:
        known, values = zip(*points, strict=True)
        curve(axes, [level.users for level in known], values, known, marker="o", color=COLOURS[1])
    else:
        axes.text(0.5, 0.5, "not known on this machine", ha="center", transform=axes.transAxes)


def _comparison(results: Sequence[Result], slo_ms: float) -> Figure:
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
        options = look(number)
        rates = [level.throughput_rps for level in result.levels]
        curve(rate, [v.users for v in result.levels], rates, result.levels, **options, label=result.name)
        known = [(v, v.p95_ms) for v in result.levels if v.p95_ms is not None]
        levels, latencies = [v for v, _ in known], [p95 for _, p95 in known]
        curve(latency, [v.users for v in levels], latencies, levels, **options)
    axes_by_number(rate, USERS, "throughput, requests/s", users)
    axes_by_number(latency, USERS, "p95 latency, ms", users)
    latency.axhline(slo_ms, color="0.4", linewidth=1)
    latency.annotate(f"objective {slo_ms:g} ms", (users[0], slo_ms), (3, 3), textcoords="offset points")
    rate.set_title("Throughput by concurrency" + (f"\n({HOLLOW})" if any_hollow(results) else ""))
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
