"""What each knob is worth: one more at a time, from LitServe's stock behaviour on.

All steps are measured in turn, and the whole round again: the machine drifts, so a step is compared
within its own round, and the median over the rounds is given.
"""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.short import all_bodies, short_rates
from servebench.lock import machine_to_ourselves
from servebench.params import ServeSettings
from servebench.paths import EXPORT_FOLDER, MACHINE
from servebench.progress import bar
from servebench.results import read_json, write_json
from servebench.serving.running import running_server

STEPS: dict[str, dict[str, Any]] = {
    "stock": {},
    "2 workers of 1 thread": {"workers_per_device": 2, "threads_per_worker": 1},
    "freed memory kept": {"keep_freed_memory": True},
    "fast preprocessing": {"preprocess": "fast"},
    "half precision": {"precision": "half"},
}
"""In this order, each with all that stand before it."""
USERS = (1, 8)
SECONDS = 3.0
ROUNDS = 3
RESULT = Path("benchmarks/results/ablation.json")


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
    bodies = all_bodies()
    steps = configurations()
    measured: dict[str, list[dict[int, float]]] = {name: [] for name in steps}
    with machine_to_ourselves(), bar(ROUNDS * len(steps), "ablation", "step") as progress:
        for number in range(ROUNDS):
            for name, settings in steps.items():
                with running_server(EXPORT_FOLDER, settings, "cpu", 30.0) as server:
                    measured[name].append(short_rates(server, bodies, USERS, SECONDS, number))
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
    print("| each with those above | users | req/s, median | times stock |\n| --- | ---: | ---: | ---: |")
    for row in rows:
        print(f"| {row['step']} | {row['users']} | {median(row['rps']):.1f} | {row['times_stock']:.2f} |")


if __name__ == "__main__":
    main()
