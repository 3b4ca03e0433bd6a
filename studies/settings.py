"""What settings are worth: ``python -m studies.settings ablation``, ``transport`` or ``pieces``.

``ablation`` adds one key at a time to LitServe's stock behaviour. ``transport`` compares LitServe's way to
the workers with the direct one, without a model and with a light one. ``pieces`` measures what a piece of a
streamed answer costs LitServe's way without a model: what another transport could save at most.
"""

from __future__ import annotations

from statistics import median
from typing import Any

from litmeter.kinds.classifier import Classifier
from litmeter.kinds.registry import read as read_keys
from litmeter.say.tables import markdown_table
from studies.harness import NUMBER, Case, compare_cases, known, rates, ratios, start, summary, write_result

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
STEP_USERS, STEP_SECONDS = (1, 8), 200.0

DIRECT = {"transport": "direct"}
FOUR = DIRECT | {"max_batch_size": 4, "threads_per_worker": 1, "keep_freed_memory": True}
NOTHING = {"api": "studies.apis:Nothing", "threads_per_worker": 1}
PRODUCT = NOTHING | {"api": "studies.apis:Product", "api_kwargs": {"products": 4}, "max_batch_size": 8}
GROUPS = {
    "classifier": {
        "stock, json": Case(read_keys({}), "json", null=True),
        "direct, json": Case(read_keys(FOUR), "json", null=True),
        "direct, image": Case(read_keys(FOUR), "image", null=True),
    },
    "api that does nothing": {
        "stock": Case(read_keys(NOTHING), NUMBER),
        "direct": Case(read_keys(NOTHING | DIRECT), NUMBER),
    },
    "api of 4 matrix products": {
        "stock": Case(read_keys(PRODUCT | {"batch_timeout_s": 0.002}), NUMBER),
        "direct": Case(read_keys(PRODUCT | DIRECT), NUMBER),
    },
}
"""The first of each is LitServe's own."""
USERS, SECONDS = 32, 60.0
STREAMS = {"api": "studies.apis:Pieces", "threads_per_worker": 1}


def ablation() -> None:
    """Measure all steps, keep all values and print the medians."""
    cases: dict[str, Case] = {}
    keys: dict[str, Any] = {}
    for name, change in STEPS.items():
        keys |= change
        settings = {key: value for key, value in keys.items() if key != "form"}
        cases[name] = Case(Classifier(**settings), keys["form"])
    steps: dict[str, dict[str, Any]] = {name: {} for name in STEPS}
    cells = [[name] for name in STEPS]
    for users, found in compare_cases(cases, STEP_USERS, STEP_SECONDS).items():
        stock = rates(found["stock"])
        for row, (name, turns) in zip(cells, found.items(), strict=True):
            own = rates(turns)
            times = round(median(ratios(own, stock)), 2)
            steps[name][f"{users} users"] = {"rps": own, "times_stock": times}
            row += [f"{median(own):.1f}", f"{times:.2f}"]
    write_result("ablation", {"steps": steps})
    head = [f"{figure}, {users} users" for users in STEP_USERS for figure in ("req/s", "times")]
    print(markdown_table(["each with those above", *head], cells))


def transport() -> None:
    """Measure the cases of each group in turn; keep and print rates over LitServe's, and CPU time."""
    result = {}
    for group, cases in GROUPS.items():
        found = compare_cases(cases, [USERS], SECONDS)[USERS]
        stock_rps = rates(found[next(iter(cases))])
        result[group] = {
            name: {
                "rps": rates(rows),
                "times_stock": summary(ratios(rates(rows), stock_rps)),
                "server_cpu_ms": summary(
                    [1000 * known(row.server_cores) / known(row.rate_rps) for row in rows]
                ),
            }
            for name, rows in found.items()
        }
        write_result("transport", result)
        print(group, *result[group].items(), sep="\n", flush=True)


def pieces() -> None:
    """Measure streams without a model; keep and print pieces a second, and the server's CPU time for each."""
    found = compare_cases({"stock": Case(read_keys(STREAMS), NUMBER)}, [USERS], SECONDS)[USERS]["stock"]
    per_s = [row.stream["chunks_rps"] for row in found]
    cpu_us = [1e6 * known(row.server_cores) / rate for row, rate in zip(found, per_s, strict=True)]
    result = {"pieces_per_s": summary(per_s), "server_cpu_us": summary(cpu_us)}
    write_result("pieces", result)
    print(*result.items(), sep="\n")


if __name__ == "__main__":
    start(__doc__, ablation, transport, pieces)
