"""Whether whole runs agree: `dvc repro --force` five times, each with a model and servers of its own.

They replace the results of the present folder, so use a clone. Arguments go on to `dvc repro`:
`--single-item comparison` runs the stage alone. Each `comparison.seconds` and each machine, by all of its
fingerprint, has a result of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import combinations
from time import monotonic
from typing import Any

import numpy as np

from litmeter.measure.rows import ComparisonRow
from litmeter.params import load_params
from litmeter.paths import COMPARISON
from litmeter.system.files import digest, read_rows
from litmeter.system.machine import fingerprint
from studies.harness import keep_runs

RUNS = 5


def run(number: int) -> dict[str, Any]:
    """Seconds, and rate and ratio with interval of each configuration."""
    began = monotonic()
    subprocess.run([sys.executable, "-m", "dvc", "repro", "--force", *sys.argv[1:]], check=True)
    compared = {}
    for row in read_rows(COMPARISON, ComparisonRow):
        interval = {"low": row.ratio_low, "high": row.ratio_high, "rounds": row.rounds}
        compared[row.experiment] = {"rate_rps": row.rate_rps, "ratio": row.ratio, **interval}
    return {"seconds": round(monotonic() - began), "compared": compared}


def agreement(runs: list[dict[str, Any]], name: str) -> str:
    """How far the ratios of one configuration lie apart, how wide they are, and how many pairs agree."""
    own = [one["compared"][name] for one in runs]
    ratios = [one["ratio"] for one in own]
    varied = np.std(ratios, ddof=1) / np.mean(ratios)
    pairs = list(combinations(own, 2))
    agreeing = sum(a["low"] <= b["high"] and b["low"] <= a["high"] for a, b in pairs)
    widths = [(one["high"] - one["low"]) / one["ratio"] for one in own]
    return (
        f"{name}: ratios {min(ratios):.2f} to {max(ratios):.2f} (CV {varied:.1%}), "
        f"intervals {min(widths):.2f} to {max(widths):.2f} of the ratio wide, "
        f"{agreeing} of {len(pairs)} pairs overlap"
    )


def main() -> None:
    """Run until there are RUNS, and print how well they agree."""
    seconds = load_params().comparison.seconds
    runs = keep_runs(f"comparisons_{seconds:.0f}_{digest(json.dumps(fingerprint()).encode())}", RUNS, run)
    for name in runs[0]["compared"]:
        if all(one["compared"][name]["low"] is not None for one in runs):
            print(agreement(runs, name))


if __name__ == "__main__":
    main()
