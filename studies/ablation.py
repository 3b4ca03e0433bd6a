"""What each key beyond LitServe's own is worth: one more at a time, from its stock behaviour on."""

from __future__ import annotations

from statistics import median
from typing import Any

from litmeter.kinds.classifier import Classifier
from litmeter.say.tables import markdown_table
from studies.harness import Case, compare_cases, rates, ratios, write_result

STEPS: dict[str, dict[str, Any]] = {
    "stock": {"form": "json"},
    "2 workers of 1 thread": {"workers_per_device": 2, "threads_per_worker": 1},
    "freed memory kept": {"keep_freed_memory": True},
    "torchvision preprocessing": {"preprocess": "torchvision"},
    "direct transport": {"transport": "direct"},
    "image bodies": {"form": "image"},
    "batches of 4": {"max_batch_size": 4},
    "compiled model": {"compiled": True},
    "half precision": {"precision": "half"},
}
"""In this order, each with all that stand before it: keys of params.yaml, and what users send."""
USERS = (1, 8)
SECONDS = 200.0


def main() -> None:
    """Measure all steps, each on top of the last, keep all values and print the medians."""
    cases: dict[str, Case] = {}
    keys: dict[str, Any] = {}
    for name, change in STEPS.items():
        keys |= change
        settings = Classifier(**{key: value for key, value in keys.items() if key != "form"})
        cases[name] = Case(settings, keys["form"])
    steps: dict[str, dict[str, Any]] = {name: {} for name in STEPS}
    for users, found in compare_cases(cases, USERS, SECONDS).items():
        stock = rates(found["stock"])
        for name, rows in found.items():
            own = rates(rows)
            times = round(median(ratios(own, stock)), 2)
            steps[name][f"{users} users"] = {"rps": own, "times_stock": times}
    write_result("ablation", {"steps": steps})
    head = [f"{figure}, {users} users" for users in USERS for figure in ("req/s", "times")]
    cells = [[name] for name in steps]
    for row, step in zip(cells, steps.values(), strict=True):
        for own in step.values():
            row += [f"{median(own['rps']):.1f}", f"{own['times_stock']:.2f}"]
    print(markdown_table(["each with those above", *head], cells))


if __name__ == "__main__":
    main()
