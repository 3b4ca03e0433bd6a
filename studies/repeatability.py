"""How far five runs of one experiment lie apart, each with a server of its own.

Beside each served rate stand the in-process rate before and after it, and the CPU time that the workers
take per image. Where the same work takes more CPU time, it is the cores that have become slower; the
product of the two, the cores that the workers keep busy, is then what repeats.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from servebench.benchmark.inprocess import BaselineRow, inprocess_workers
from servebench.benchmark.levels import LevelRow
from servebench.benchmark.served import measure_served
from servebench.data.index import read_index
from servebench.loadgen import photo_bodies
from servebench.params import load_params
from servebench.paths import EXPORT_FOLDER, MACHINE
from servebench.system.files import read_json, write_json
from servebench.system.machine_lock import exclusive_machine

EXPERIMENT = "e1_baseline"
USERS = 4
RUNS = 5
TARGET = 0.03
RESULT = Path("benchmarks/results/repeatability.json")


def variation(values: list[float]) -> float:
    """Coefficient of variation: standard deviation over mean."""
    return float(np.std(values, ddof=1) / np.mean(values))


def account(best: LevelRow, pipeline: BaselineRow) -> dict[str, Any]:
    """What one run did, and what may explain it: CPU time per image, and who else took the CPU."""
    return {
        "served_rps": best["throughput_rps"],
        "served_worker_cpu_ms": best["workers_cpu_ms"],
        "served_cpu_percent": best["cpu_percent"],
        "in_process_rps": pipeline["pipeline_rps"],
        "in_process_before_rps": pipeline["pipeline_before_rps"],
        "in_process_after_rps": pipeline["pipeline_after_rps"],
        "in_process_cpu_ms": pipeline["pipeline_cpu_ms"],
        "other_percent": best["other_percent"],
        "steal_percent": best["steal_percent"],
    }


def main() -> None:
    """Run RUNS times, print the coefficient of variation and keep it."""
    params = load_params()
    serve = params.configuration(EXPERIMENT)
    load = params.load.model_copy(update={"users": (USERS,)})
    paths = [Path(photo.path) for photo in read_index().photos]
    bodies = photo_bodies(paths)
    runs: list[dict[str, Any]] = []
    with exclusive_machine():
        for run in range(RUNS):
            with inprocess_workers(EXPORT_FOLDER, serve, "cpu", paths, params.baseline) as inprocess:
                inprocess.measure()
                result = measure_served(
                    f"run {run + 1} of {RUNS}", serve, load, "cpu", bodies, client_limit_rps=float("inf")
                )
                inprocess.measure()
                rows = inprocess.rows()
            if result.best is None:
                raise SystemExit("requests failed: nothing to compare")
            runs.append(account(result.best, max(rows, key=lambda row: row["pipeline_rps"])))
    series = {key: [run[key] for run in runs] for key in runs[0]}
    busy = [a * b for a, b in zip(series["served_rps"], series["served_worker_cpu_ms"], strict=True)]
    found = {
        "variation": round(variation(series["served_rps"]), 4),
        "variation_of_cpu_per_image": round(variation(series["served_worker_cpu_ms"]), 4),
        "variation_of_busy_cores": round(variation(busy), 4),
    }
    write_json(
        RESULT,
        {
            "goal": "five runs of one experiment: coefficient of variation of throughput at most 3%",
            "target": TARGET,
            **found,
            "met": found["variation"] <= TARGET,
            "runs": runs,
            "experiment": EXPERIMENT,
            "users": USERS,
            "machine": read_json(MACHINE)["id"],
        },
    )
    print(
        f"{EXPERIMENT} at {USERS} users, {RUNS} runs: throughput varies by {found['variation']:.1%}, "
        f"the workers' CPU time per image by {found['variation_of_cpu_per_image']:.1%}, "
        f"the cores that they keep busy by {found['variation_of_busy_cores']:.1%}"
    )


if __name__ == "__main__":
    main()
