"""How far five runs of one experiment lie apart, each with a server of its own.

Beside each served rate stands the in-process rate of the same minute: where both move together, it is
the machine that moved, and their ratio is what repeats.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from servebench.benchmark.inprocess import inprocess_workers
from servebench.benchmark.served import measure_served
from servebench.data.index import read_index
from servebench.load import photo_bodies
from servebench.lock import machine_to_ourselves
from servebench.params import load_params
from servebench.paths import EXPORT_FOLDER, MACHINE
from servebench.results import read_json, write_json

EXPERIMENT = "e1_baseline"
USERS = 4
RUNS = 5
TARGET = 0.03
RESULT = Path("benchmarks/results/repeatability.json")


def variation(values: list[float]) -> float:
    """Coefficient of variation: standard deviation over mean."""
    return float(np.std(values, ddof=1) / np.mean(values))


def main() -> None:
    """Run RUNS times, print the coefficient of variation and keep it."""
    params = load_params()
    serve = params.configuration(EXPERIMENT)
    load = params.load.model_copy(update={"users": (USERS,)})
    paths = [Path(photo.path) for photo in read_index().photos]
    bodies = photo_bodies(paths)
    served: list[float] = []
    inside: list[float] = []
    with machine_to_ourselves():
        for run in range(RUNS):
            with inprocess_workers(EXPORT_FOLDER, serve, "cpu", paths, params.baseline) as inprocess:
                inprocess.measure()
                result = measure_served(
                    f"run {run + 1} of {RUNS}", serve, load, "cpu", bodies, ceiling_rps=float("inf")
                )
                inprocess.measure()
                rows = inprocess.rows()
            if result.best is None:
                raise SystemExit("requests failed: nothing to compare")
            served.append(result.best["throughput_rps"])
            inside.append(max(row["pipeline_rps"] for row in rows))
    ratios = [one / other for one, other in zip(served, inside, strict=True)]
    found = {
        "variation": round(variation(served), 4),
        "variation_in_process": round(variation(inside), 4),
        "variation_of_ratio": round(variation(ratios), 4),
    }
    write_json(
        RESULT,
        {
            "goal": "five runs of one experiment: coefficient of variation of throughput at most 3%",
            "target": TARGET,
            **found,
            "met": found["variation"] <= TARGET,
            "served_rps": served,
            "in_process_rps": inside,
            "experiment": EXPERIMENT,
            "users": USERS,
            "machine": read_json(MACHINE)["id"],
        },
    )
    print(
        f"{EXPERIMENT} at {USERS} users, {RUNS} runs: variation {found['variation']:.1%} served, "
        f"{found['variation_in_process']:.1%} in-process, {found['variation_of_ratio']:.1%} of their ratio"
    )


if __name__ == "__main__":
    main()
