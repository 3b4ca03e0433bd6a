"""Where the cores' time goes: what a request costs in each process, beside the same work without a server."""

from __future__ import annotations

import os
from functools import partial
from statistics import median

from litmeter.benchmark.inprocess import inprocess_workers
from litmeter.benchmark.served import scrape
from litmeter.benchmark.telemetry import Telemetry
from litmeter.params import BaselineSettings, ServeSettings
from litmeter.paths import ModelFolders
from litmeter.system.tables import markdown_table
from studies import DEVICE
from studies.harness import (
    SAMPLE_S,
    Case,
    load_plan,
    measure_rounds,
    photo_paths,
    read_result,
    run_load,
    write_result,
)
from studies.models import MODELS, exported, tuned

USERS = 32
SECONDS = 4.0
BASELINE_S = 0.8
ROUNDS = 3
RESULT = "costs"
COLUMNS = {
    "model": "model, in-process",
    "pixels": "decode and preprocess, in-process",
    "worker": "more in a worker",
    "http": "HTTP process",
    "client": "load generator",
    "rest": "rest",
}
"""Milliseconds of a core for one request; together they are all that the cores have."""


def costs(folders: ModelFolders, settings: ServeSettings, number: int) -> dict[str, float]:
    """Each part's milliseconds, by the keys of COLUMNS, and the served rate."""
    cores = os.cpu_count() or 1
    case = Case(settings, users=(USERS,), seconds=SECONDS, folders=folders)
    baseline = BaselineSettings(batch_sizes=(settings.max_batch_size,), seconds=BASELINE_S)
    plan = load_plan(users=USERS, seconds=SECONDS, seed=number)
    with inprocess_workers(folders, settings, DEVICE, photo_paths(), baseline) as inprocess:
        inprocess.measure()
        with case.running() as server, Telemetry(server.pid, interval_s=SAMPLE_S) as telemetry:
            [record] = run_load(server, case.form, [plan], on_start=telemetry.follow_client)
            usage, roles = telemetry.usage(*record.window), scrape(server).roles
        inprocess.measure()
        [row] = inprocess.rows()
    opened, closed = record.window
    rps = float(record.in_window.sum()) / (closed - opened)
    workers = sum(used for pid, used in usage.process_cores.items() if roles.get(pid) == "worker")
    pipeline = 1000 * cores / row.pipeline_rps
    found = {
        "model": 1000 * cores / row.model_rps,
        "worker": 1000 * workers / rps - pipeline,
        "http": 1000 * ((usage.server_cores or 0.0) - workers) / rps,
        "client": 1000 * (usage.client_cores or 0.0) / rps,
    }
    found["pixels"] = pipeline - found["model"]
    found["rest"] = 1000 * cores / rps - sum(found.values())
    return found | {"rps": rps}


def main() -> None:
    """Measure every model, print the medians and keep all values."""
    cases = {model: partial(costs, exported(model), tuned(model)) for model in MODELS}
    found = measure_rounds("costs", cases, ROUNDS)
    rows = [
        {"name": model, **{key: [round(one[key], 4) for one in rounds] for key in (*COLUMNS, "rps")}}
        for model, rounds in found.items()
    ]
    write_result(RESULT, {"ms": rows, "users": USERS})
    print(table())


def table() -> str:
    """Medians by model, as Markdown."""
    rows = [
        [row["name"], *(f"{median(row[key]):.2f}" for key in COLUMNS), f"{median(row['rps']):.0f}"]
        for row in read_result(RESULT)["ms"]
    ]
    return markdown_table(["ms of a core for a request", *COLUMNS.values(), "req/s"], rows)


if __name__ == "__main__":
    main()
