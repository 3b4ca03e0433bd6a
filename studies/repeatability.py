"""How far five runs of one experiment lie apart, each with a server of its own.

Beside each served rate stand the in-process rates before, amid and after it, the CPU time that the workers
take per image, and what others took of the CPU. The cause of the differences does not follow from them:
while the CPU is full, the CPU time per image is the number of cores over the rate, whatever the cause.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from litmeter.benchmark.inprocess import inprocess_workers
from litmeter.benchmark.rows import BaselineRow, LevelRow
from litmeter.benchmark.served import measure_served
from litmeter.errors import LoadError
from litmeter.loadgen import load_generator
from litmeter.params import load_params
from litmeter.paths import MODEL
from litmeter.serving.client import CONTENT_TYPES
from litmeter.serving.launcher import running_server
from studies import DEVICE
from studies.harness import all_bodies, measure_rounds, photo_paths, write_result

EXPERIMENT = "e1_baseline"
USERS = 4
RUNS = 5
TARGET = 0.03


def variation(values: list[float]) -> float:
    """Coefficient of variation: standard deviation over mean."""
    return round(float(np.std(values, ddof=1) / np.mean(values)), 4)


def run(number: int) -> dict[str, Any]:
    """One run.

    Raises:
        LoadError: requests failed.
    """
    params = load_params()
    settings = params.configuration(EXPERIMENT)
    load = params.load.model_copy(update={"users": (USERS,)})
    bodies = all_bodies(load.request_body)
    with (
        running_server(MODEL, settings, DEVICE, load.timeout_s) as server,
        inprocess_workers(MODEL, settings, DEVICE, photo_paths(), params.baseline) as inprocess,
        load_generator(bodies, CONTENT_TYPES[load.request_body]) as generator,
    ):
        served = measure_served(
            f"run {number + 1}",
            server,
            generator,
            load,
            client_limit_rps=math.inf,
            photos=len(bodies),
            while_paused=inprocess.measure,
        )
        rows = inprocess.rows()
    if served.best is None:
        raise LoadError("requests failed: nothing to compare")
    return account(served.best, max(rows, key=lambda row: row.pipeline_rps))


def account(best: LevelRow, pipeline: BaselineRow) -> dict[str, Any]:
    """What one run did: rates, CPU time per image, and who else took the CPU."""
    return {
        "served_rps": best.throughput_rps,
        "served_worker_cpu_ms": best.workers_cpu_ms,
        "served_cpu_percent": best.cpu_percent,
        "in_process_rps": pipeline.pipeline_rps,
        "in_process_slowest_rps": pipeline.pipeline_slowest_rps,
        "in_process_fastest_rps": pipeline.pipeline_fastest_rps,
        "in_process_cpu_ms": pipeline.pipeline_cpu_ms,
        "other_percent": best.other_percent,
        "steal_percent": best.steal_percent,
    }


def main() -> None:
    """Run RUNS times, print the coefficient of variation and keep it."""
    [runs] = measure_rounds("repeatability", {EXPERIMENT: run}, RUNS).values()
    rps, cpu_ms = ([one[key] for one in runs] for key in ("served_rps", "served_worker_cpu_ms"))
    varied = variation(rps)
    cpu_varied = variation(cpu_ms)
    write_result(
        "repeatability",
        {
            "goal": "five runs of one experiment: coefficient of variation of throughput at most 3%",
            "target": TARGET,
            "variation": varied,
            "variation_of_cpu_per_image": cpu_varied,
            "runs": runs,
            "experiment": EXPERIMENT,
            "users": USERS,
        },
    )
    print(
        f"{EXPERIMENT} at {USERS} users, {RUNS} runs: throughput varies by {varied:.1%} "
        f"(the goal is at most {TARGET:.0%}), the workers' CPU time per image by {cpu_varied:.1%}"
    )


if __name__ == "__main__":
    main()
