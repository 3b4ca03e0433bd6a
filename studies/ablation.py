"""What each key beyond LitServe's own is worth: one more at a time, from its stock behaviour on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from matplotlib.axes import Axes

from litmeter.params import ServeSettings
from litmeter.report.drawing import BLUE, INK, Chart, draw_bars, save_png
from litmeter.system.tables import markdown_table
from studies.harness import Case, measure_rounds, rates, ratios, read_result, write_result

STEPS: dict[str, dict[str, Any]] = {
    "stock": {},
    "2 workers of 1 thread": {"workers_per_device": 2, "threads_per_worker": 1},
    "freed memory kept": {"keep_freed_memory": True},
    "fast preprocessing": {"preprocess": "torchvision"},
    "direct transport": {"transport": "direct"},
    "image bodies": {"form": "image"},
    "batches of 4": {"max_batch_size": 4},
    "compiled model": {"compiled": True},
    "half precision": {"precision": "half"},
}
"""In this order, each with all that stand before it: keys of params.yaml, and what users send."""
USERS = (1, 8)
SECONDS = 3.0
ROUNDS = 3
RESULT = "ablation"
PICTURE = Path("assets/ablation.png")


def cases() -> dict[str, Case]:
    """The steps, each on top of the last."""
    found = {}
    keys: dict[str, Any] = {"form": "json"}
    for name, change in STEPS.items():
        keys |= change
        settings = ServeSettings(**{key: value for key, value in keys.items() if key != "form"})
        found[name] = Case(settings, users=USERS, seconds=SECONDS, form=keys["form"])
    return found


def main() -> None:
    """Measure all steps, print the medians and keep all values."""
    found = measure_rounds("ablation", cases(), ROUNDS)
    rows = [
        {
            "step": name,
            "users": users,
            "rps": rates(levels, users),
            "times_stock": round(median(ratios(rates(levels, users), rates(found["stock"], users))), 2),
        }
        for users in USERS
        for name, levels in found.items()
    ]
    write_result(RESULT, {"steps": rows, "rounds": ROUNDS})
    draw(rows)
    print(table())


def table() -> str:
    """The steps as Markdown."""
    head = ["each with those above", "users", "req/s, median", "times stock"]
    rows = [
        [row["step"], str(row["users"]), f"{median(row['rps']):.1f}", f"{row['times_stock']:.2f}"]
        for row in read_result(RESULT)["steps"]
    ]
    return markdown_table(head, rows)


def draw(rows: Sequence[dict[str, Any]]) -> None:
    """A bar per step: how many times stock, at the larger number of users, with the single rounds."""
    own = [row for row in rows if row["users"] == USERS[-1]]
    names = [row["step"] if number == 0 else f"+ {row['step']}" for number, row in enumerate(own)]

    def draw_steps(axes: Axes) -> None:
        times = [row["times_stock"] for row in own]
        draw_bars(axes, times, [0.0] * len(own), names, BLUE)
        for place, row in enumerate(own):
            single = ratios(row["rps"], own[0]["rps"])
            axes.plot(single, [place] * len(single), "o", color=INK, markersize=6)
        axes.set_xlabel(f"throughput at {USERS[-1]} users, times stock")

    chart = Chart(
        "What each key is worth, with those above it",
        draw_steps,
        "Points: single rounds.",
        names=names,
        notes=[f"{row['times_stock']:.2f}" for row in own],
    )
    save_png(PICTURE, [chart])


if __name__ == "__main__":
    main()
