"""What each knob is worth: one more at a time, from LitServe's stock behaviour on.

All steps are measured in turn, and the whole round again: the machine drifts, so a step is compared
within its own round, and the median over the rounds is given.
"""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Any

from servebench.data.index import read_index
from servebench.load import CONTENT_TYPE, LevelPlan, generate, photo_bodies
from servebench.lock import machine_to_ourselves
from servebench.measure.level import level_row
from servebench.measure.telemetry import Usage
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


def rates(settings: ServeSettings, bodies: list[bytes], seed: int) -> dict[int, float]:
    """Requests per second by number of users."""
    plan = [
        LevelPlan(
            users=users,
            requests=1,
            warmup_s=0.5,
            min_s=SECONDS,
            max_s=SECONDS,
            max_windows=3,
            timeout_s=30.0,
            seed=seed,
        )
        for users in USERS
    ]
    with running_server(EXPORT_FOLDER, settings, "cpu", 30.0) as server:
        levels = generate(f"{server.url}/predict", bodies, CONTENT_TYPE, plan)
    return {level.users: level_row(level, Usage())["throughput_rps"] for level in levels}


def main() -> None:
    """Measure every step in every round, print the medians and keep all values."""
    bodies = photo_bodies([Path(photo.path) for photo in read_index().photos])
    steps = configurations()
    measured: dict[str, list[dict[int, float]]] = {name: [] for name in steps}
    with machine_to_ourselves(), bar(ROUNDS * len(steps), "ablation", "step") as progress:
        for number in range(ROUNDS):
            for name, settings in steps.items():
                measured[name].append(rates(settings, bodies, number))
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
