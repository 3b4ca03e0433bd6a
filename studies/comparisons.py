"""Whether five whole runs agree: `dvc repro --force`, each with a model and servers of its own.

They run in the present folder, so use a clone. Arguments go on to `dvc repro`: `--single-item comparison`
runs the stage alone. Each `comparison.seconds` and each machine, by its id, has a result of its own. A study
that was stopped goes on with the next run; delete its result to begin anew. A result with more than five runs
has those of several versions, in their order.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from itertools import combinations
from statistics import geometric_mean
from time import monotonic
from typing import Any

import numpy as np

from litmeter.benchmark.comparison import RESTART_FROM_S
from litmeter.benchmark.rows import ComparisonRow
from litmeter.params import load_params
from litmeter.paths import COMPARISON, COMPARISON_RUN
from litmeter.system.files import read_rows
from litmeter.system.machine import fingerprint
from studies.harness import read_runs, write_result

RUNS = 5
TARGET_OVERLAP, TARGET_WIDTH = 0.95, 0.3
TARGET_VARIATION, LONG_TARGET_VARIATION = 0.12, 0.08
"""Of ratios, and where the servers are restarted halfway."""
FASTEST = "e7_tuned"
LADDER = ("e2", "e3", "e4", "e5", "e6")

Run = Mapping[str, Any]
"""By configuration: rate, ratio to the reference, low and high (None without an interval), and rounds."""


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


def summary(runs: Sequence[Run], seconds: float) -> dict[str, Any]:
    """What the goals are about, of comparisons of so many seconds."""
    answered = [name for name in runs[0] if all(run[name]["ratio"] for run in runs)]
    ratios_of = {name: [run[name]["ratio"] for run in runs] for name in answered}
    with_interval = [name for name in ratios_of if all(run[name]["low"] is not None for run in runs)]
    ladder = [name for name in ratios_of if name.startswith(LADDER)]
    over_best = [run[FASTEST]["ratio"] / max(run[name]["ratio"] for name in ladder) for run in runs]
    return {
        "mean_ratio": {name: round(geometric_mean(own), 3) for name, own in ratios_of.items()},
        "overlap": {name: overlap(runs, name) for name in with_interval},
        "largest_width": {name: round(max(width(run, name) for run in runs), 3) for name in with_interval},
        "variation": {name: round(variation(own), 3) for name, own in ratios_of.items()},
        "variation_over_best_of_ladder": round(variation(over_best), 3),
        "targets": {
            "overlap": TARGET_OVERLAP,
            "width": TARGET_WIDTH,
            "variation": TARGET_VARIATION if seconds < RESTART_FROM_S else LONG_TARGET_VARIATION,
        },
    }


def compared(users: int) -> dict[str, dict[str, float | None]]:
    """What the stage has just measured, by configuration."""
    return {
        row.experiment: {
            "rate_rps": row.rate_rps,
            "ratio": row.ratio,
            "low": row.ratio_low,
            "high": row.ratio_high,
            "rounds": row.rounds,
            "efficiency": row.efficiency,
            "efficiency_low": row.efficiency_low,
            "efficiency_high": row.efficiency_high,
        }
        for row in read_rows(COMPARISON, ComparisonRow)
        if row.users == users
    }


def main() -> None:
    """Run until there are RUNS; keep each comparison as soon as it has been made."""
    settings = load_params().comparison
    result = f"comparisons_{settings.seconds:.0f}_{fingerprint()['id']}"
    runs = read_runs(result)
    while len(runs) < RUNS:
        COMPARISON_RUN.unlink(missing_ok=True)  # or the stage would add its rounds to those of the run before
        began = monotonic()
        subprocess.run([sys.executable, "-m", "dvc", "repro", "--force", *sys.argv[1:]], check=True)
        runs.append({"seconds": round(monotonic() - began), "compared": compared(settings.users[0])})
        print(f"run {len(runs)}: {runs[-1]}", flush=True)
        found = summary([run["compared"] for run in runs], settings.seconds) if len(runs) > 1 else {}
        write_result(result, {**found, "runs": runs})


if __name__ == "__main__":
    main()
