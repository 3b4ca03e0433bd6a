"""Which ``max_batch_size`` serves most, with a package for every size up to it, each in turn.

The heavier the model, the less it matters what a batch shares: its messages, and the workers' cold caches.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from servebench.report.markdown import markdown_table

from servebench.paths import MACHINE
from servebench.serving.launcher import running_server
from servebench.system.files import read_json, write_json
from servebench.system.machine_lock import exclusive_machine
from servebench.system.progress import bar
from studies.models import tuned, with_packages
from studies.short import all_bodies, short_levels

MODELS = (None, "mobilenetv3_small_100")
SIZES = (1, 2, 4, 8)
USERS = (8, 32)
SECONDS = 2.0
ROUNDS = 5
RESULT = Path("benchmarks/results/batch_size.json")


def measure(name: str | None, bodies: Sequence[bytes], number: int) -> dict[int, dict[int, float]]:
    """Requests per second by size and users, in one round."""
    folder = with_packages(name, max(SIZES))
    rates = {}
    for size in SIZES[:: -1 if number % 2 else 1]:
        settings = tuned(name).model_copy(update={"max_batch_size": size})
        with running_server(folder, settings, "cpu", 30.0) as server:
            levels = short_levels(server, bodies, USERS, SECONDS, number, "image")
            rates[size] = {users: row["throughput_rps"] for users, row in levels.items()}
    return rates


def main() -> None:
    """Compare, print and keep."""
    bodies = all_bodies("image")
    for name in MODELS:
        with_packages(name, max(SIZES))
    found: dict[str, list[dict[int, dict[int, float]]]] = {name or "default": [] for name in MODELS}
    with exclusive_machine(), bar(ROUNDS * len(MODELS), "batch sizes", "model") as progress:
        for number in range(ROUNDS):
            for name in MODELS:
                found[name or "default"].append(measure(name, bodies, number))
                progress.update()
    rows = [
        {
            "model": model,
            "max_batch_size": size,
            "rps": {str(users): [one[size][users] for one in rounds] for users in USERS},
        }
        for model, rounds in found.items()
        for size in SIZES
    ]
    write_json(RESULT, {"sizes": rows, "machine": read_json(MACHINE)["id"]})
    print(table(rows))


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Medians by model and size, as Markdown."""
    head = ["model", "`max_batch_size`", *(f"req/s, {users} users" for users in USERS)]
    cells = [
        [
            row["model"],
            str(row["max_batch_size"]),
            *(f"{median(row['rps'][str(users)]):.0f}" for users in USERS),
        ]
        for row in rows
    ]
    return markdown_table(head, cells)


if __name__ == "__main__":
    main()
