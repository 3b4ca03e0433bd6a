"""What each knob is worth: one more at a time, from LitServe's stock behaviour on.

All steps are measured in turn, and the whole round again: the machine drifts, so a step is compared
within its own round, and the median over the rounds is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib.pyplot as plt
from servebench.report.markdown import markdown_table

from servebench.params import ServeSettings
from servebench.paths import EXPORT_FOLDER, MACHINE
from servebench.report.plots.style import COLOURS, save
from servebench.serving.launcher import running_server
from servebench.system.files import read_json, write_json
from servebench.system.machine_lock import exclusive_machine
from servebench.system.progress import bar
from studies.short import all_bodies, short_rates

STEPS: dict[str, dict[str, Any]] = {
    "stock": {},
    "2 workers of 1 thread": {"workers_per_device": 2, "threads_per_worker": 1},
    "freed memory kept": {"keep_freed_memory": True},
    "fast preprocessing": {"preprocess": "torchvision"},
    "direct transport": {"transport": "direct"},
    "image bodies": {"request_body": "image"},
    "batches of 4": {"max_batch_size": 4},
    "compiled model": {"compiled": True},
    "half precision": {"precision": "half"},
}
"""In this order, each with all that stand before it."""
USERS = (1, 8)
SECONDS = 3.0
ROUNDS = 3
RESULT = Path("benchmarks/results/ablation.json")
PICTURE = Path("assets/ablation.png")


def configurations() -> dict[str, ServeSettings]:
    """The steps' settings, each on top of the last."""
    changes: dict[str, Any] = {}
    found = {}
    for name, change in STEPS.items():
        changes |= change
        found[name] = ServeSettings(**changes)
    return found


def main() -> None:
    """Measure every step in every round, print the medians and keep all values."""
    bodies = {form: all_bodies(form) for form in ("json", "image")}
    steps = configurations()
    measured: dict[str, list[dict[int, float]]] = {name: [] for name in steps}
    with exclusive_machine(), bar(ROUNDS * len(steps), "ablation", "step") as progress:
        for number in range(ROUNDS):
            for name, settings in steps.items():
                form = settings.request_body
                with running_server(EXPORT_FOLDER, settings, "cpu", 30.0) as server:
                    rates = short_rates(server, bodies[form], USERS, SECONDS, number, form)
                measured[name].append(rates)
                progress.update()
    rows: list[dict[str, Any]] = [
        {
            "step": name,
            "users": users,
            "rps": [found[users] for found in measured[name]],
            "times_stock": round(
                median(
                    own[users] / stock[users]
                    for own, stock in zip(measured[name], measured["stock"], strict=True)
                ),
                2,
            ),
        }
        for users in USERS
        for name in steps
    ]
    write_json(RESULT, {"steps": rows, "rounds": ROUNDS, "machine": read_json(MACHINE)["id"]})
    draw(rows)
    print(table(rows))


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The steps as Markdown."""
    head = ["each with those above", "users", "req/s, median", "times stock"]
    cells = [
        [row["step"], str(row["users"]), f"{median(row['rps']):.1f}", f"{row['times_stock']:.2f}"]
        for row in rows
    ]
    return markdown_table(head, cells)


def draw(rows: Sequence[dict[str, Any]]) -> None:
    """A bar per step: how many times stock, at the larger number of users, with the single rounds."""
    own = [row for row in rows if row["users"] == USERS[-1]]
    stock = own[0]["rps"]
    figure, axes = plt.subplots(figsize=(8, 0.45 * len(own) + 1.2), layout="constrained")
    places = range(len(own))
    names = [row["step"] if number == 0 else f"+ {row['step']}" for number, row in enumerate(own)]
    axes.barh(places, [row["times_stock"] for row in own], color="#c9d8e8", edgecolor=COLOURS[1])
    for place, row in zip(places, own, strict=True):
        ratios = [rps / other for rps, other in zip(row["rps"], stock, strict=True)]
        axes.plot(ratios, [place] * len(ratios), "o", color=COLOURS[0], markersize=3)
        axes.annotate(
            f"{row['times_stock']:.2f}",
            (max(ratios), place),
            (8, 0),
            textcoords="offset points",
            va="center",
        )
    axes.set_yticks(places, names)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlabel(f"throughput at {USERS[-1]} users, times stock (points: single rounds)")
    save(figure, PICTURE)


if __name__ == "__main__":
    main()
