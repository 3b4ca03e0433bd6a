"""Whether five comparisons of all configurations agree, each as the pipeline's, with servers of its own.

A study that was stopped goes on with the next run, on the same machine; delete its result to begin anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from statistics import geometric_mean
from typing import Any

import numpy as np

from servebench.benchmark.comparison import compare
from servebench.benchmark.comparison_rows import measured_ratios
from servebench.params import load_params
from servebench.paths import MODEL
from servebench.system.machine_lock import exclusive_machine
from studies import DEVICE
from studies.harness import all_bodies, read_runs, write_result

RESULT = "comparisons"
RUNS = 5
TARGET_OVERLAP, TARGET_WIDTH, TARGET_VARIATION = 0.95, 0.3, 0.12
FASTEST = "e7_tuned"
LADDER = ("e2", "e3", "e4", "e5", "e6")

Run = Mapping[str, Any]
"""By configuration: ratio to the reference, low and high (None without an interval), and rounds."""


def overlap(runs: Sequence[Run], name: str) -> float:
    """Share of the pairs of runs in which a configuration's intervals overlap."""
    pairs = list(combinations([run[name] for run in runs], 2))
    return float(np.mean([a["low"] <= b["high"] and b["low"] <= a["high"] for a, b in pairs]))


def width(run: Run, name: str) -> float:
    """Length of an interval over its ratio."""
    return float((run[name]["high"] - run[name]["low"]) / run[name]["ratio"])


def variation(values: Sequence[float]) -> float:
    """Coefficient of variation."""
    return float(np.std(values, ddof=1) / np.mean(values))


def summary(runs: Sequence[Run]) -> dict[str, Any]:
    """What the goals are about."""
    ratios_of = {name: [run[name]["ratio"] for run in runs] for name in runs[0]}
    resolved = [name for name in ratios_of if all(run[name]["low"] is not None for run in runs)]
    ladder = [name for name in ratios_of if name.startswith(LADDER)]
    over_best = [run[FASTEST]["ratio"] / max(run[name]["ratio"] for name in ladder) for run in runs]
    return {
        "mean_ratio": {name: round(geometric_mean(own), 3) for name, own in ratios_of.items()},
        "overlap": {name: overlap(runs, name) for name in resolved},
        "largest_width": {name: round(max(width(run, name) for run in runs), 3) for name in resolved},
        "variation": {name: round(variation(own), 3) for name, own in ratios_of.items()},
        "variation_over_best_of_ladder": round(variation(over_best), 3),
        "targets": {"overlap": TARGET_OVERLAP, "width": TARGET_WIDTH, "variation": TARGET_VARIATION},
    }


def main() -> None:
    """Compare until there are RUNS; keep each as soon as it has been measured."""
    params = load_params()
    settings = params.comparison
    runs = read_runs(RESULT)
    for number in range(len(runs), RUNS):
        load = params.load.model_copy(update={"seed": params.load.seed + number})
        with exclusive_machine():
            bodies = all_bodies(load.request_body)
            comparison = compare(
                params.configurations(), MODEL, DEVICE, bodies, load, settings, settings.seconds
            )
        rates = comparison.rates(settings.users[0])
        runs.append(
            {
                name: {
                    "ratio": round(own.ratio, 4),
                    "low": own.low and round(own.low, 4),
                    "high": own.high and round(own.high, 4),
                    "rounds": sum(rate is not None for rate in rates[name]),
                }
                for name, own in measured_ratios(rates, settings.reference).items()
            }
        )
        print(f"run {number + 1}: {runs[-1]}", flush=True)
        found = summary(runs) if len(runs) > 1 else {}
        write_result(RESULT, {**found, "runs": runs, "seconds": settings.seconds})


if __name__ == "__main__":
    main()
