"""Where the cores' time goes: what a request costs in each process, beside the same work without a server."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from servebench.report.markdown import markdown_table

from servebench.benchmark.inprocess import inprocess_workers
from servebench.benchmark.served import scrape
from servebench.benchmark.telemetry import Telemetry
from servebench.loadgen import CONTENT_TYPES, LoadPlan, generate
from servebench.params import BaselineSettings, ServeSettings
from servebench.paths import MACHINE
from servebench.serving.launcher import running_server
from servebench.system.files import read_json, write_json
from servebench.system.machine_lock import exclusive_machine
from servebench.system.progress import bar
from studies.models import MODELS, exported, tuned
from studies.short import all_bodies, photo_paths

USERS = 32
SECONDS = 4.0
BASELINE_S = 0.8
ROUNDS = 3
RESULT = Path("benchmarks/results/costs.json")
COLUMNS = {
    "model": "model, in-process",
    "pixels": "decode and preprocess, in-process",
    "worker": "more in a worker",
    "http": "HTTP process",
    "client": "load generator",
    "rest": "rest",
}
"""Milliseconds of a core for one request; together they are all that the cores have."""


def one_round(folder: Path, serve: ServeSettings, bodies: Sequence[bytes], number: int) -> dict[str, float]:
    """Each part's milliseconds, by the keys of COLUMNS, and the served rate."""
    cores = os.cpu_count() or 1
    baseline = BaselineSettings(batch_sizes=(serve.max_batch_size,), seconds=BASELINE_S)
    plan = LoadPlan(
        users=USERS,
        requests=1,
        warmup_s=0.5,
        min_s=SECONDS,
        max_s=SECONDS,
        max_windows=3,
        timeout_s=30.0,
        seed=number,
    )
    with inprocess_workers(folder, serve, "cpu", photo_paths(), baseline) as inprocess:
        inprocess.measure()
        with (
            running_server(folder, serve, "cpu", 30.0) as server,
            Telemetry(server.pid, interval_s=0.1) as telemetry,
        ):
            [level] = generate(
                f"{server.url}/predict",
                bodies,
                CONTENT_TYPES["image"],
                [plan],
                on_start=telemetry.follow_client,
            )
            usage, roles = telemetry.usage(*level.window), scrape(server).roles
        inprocess.measure()
        [row] = inprocess.rows()
    opened, closed = level.window
    rps = float(((level.end > opened) & (level.end <= closed)).sum() / (closed - opened))
    workers = sum(used for pid, used in usage.process_cores.items() if roles.get(pid) == "worker")
    pipeline = 1000 * cores / row["pipeline_rps"]
    found = {
        "model": 1000 * cores / row["model_rps"],
        "worker": 1000 * workers / rps - pipeline,
        "http": 1000 * ((usage.server_cores or 0.0) - workers) / rps,
        "client": 1000 * (usage.client_cores or 0.0) / rps,
    }
    found["pixels"] = pipeline - found["model"]
    found["rest"] = 1000 * cores / rps - sum(found.values())
    return found | {"rps": rps}


def main() -> None:
    """Measure every model in every round, print and keep."""
    bodies = all_bodies("image")
    folders = {name: exported(name) for name in MODELS}
    found: dict[str | None, list[dict[str, float]]] = {name: [] for name in MODELS}
    with exclusive_machine(), bar(ROUNDS * len(MODELS), "costs", "model") as progress:
        for number in range(ROUNDS):
            for name, folder in folders.items():
                found[name].append(one_round(folder, tuned(name), bodies, number))
                progress.update()
    rows = [
        {
            "name": name or "default",
            **{key: [round(one[key], 4) for one in rounds] for key in (*COLUMNS, "rps")},
        }
        for name, rounds in found.items()
    ]
    write_json(RESULT, {"ms": rows, "users": USERS, "machine": read_json(MACHINE)["id"]})
    print(table(rows))


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Medians by model, as Markdown."""
    head = ["ms of a core for a request", *COLUMNS.values(), "req/s"]
    cells = [
        [row["name"], *(f"{median(row[key]):.2f}" for key in COLUMNS), f"{median(row['rps']):.0f}"]
        for row in rows
    ]
    return markdown_table(head, cells)


if __name__ == "__main__":
    main()
