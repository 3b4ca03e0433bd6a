"""What the server's metrics cost: throughput with and without them, in pairs.

The cost is the mean of the pairs' log ratios, with Student's t for its interval.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from litmeter.params import load_params
from studies.goals import verdict
from studies.harness import Case, measure_side_by_side, rates, ratios, write_result

EXPERIMENT = "e2_batching"
USERS = 4
SECONDS = 4.0
PAIRS = 24
T_95 = 1.7138715277470473
"""95% quantile of Student's t for 24 pairs: the bound is one-sided."""
TARGET = 0.02


def main() -> None:
    """Measure PAIRS pairs, print the cost and keep it."""
    timed = Case(load_params().configuration(EXPERIMENT), users=(USERS,), seconds=SECONDS)
    cases = {"without": replace(timed, metrics=False), "with": timed}
    found = measure_side_by_side("metrics' cost", cases, PAIRS)
    pairs = ratios(*(rates(found[name], USERS) for name in ("with", "without")))
    logs = np.log(pairs)
    spread = T_95 * float(logs.std(ddof=1)) / math.sqrt(PAIRS)
    least, cost, bound = (1 - math.exp(logs.mean() + part * spread) for part in (1, 0, -1))
    write_result(
        "metrics_cost",
        {
            "goal": "the metrics cost at most 2% of throughput, upper 95% bound",
            "target": TARGET,
            "cost": round(cost, 4),
            "bound": round(bound, 4),
            "ratios": [round(ratio, 4) for ratio in pairs],
            "experiment": EXPERIMENT,
            "users": USERS,
        },
    )
    met = verdict([cost], TARGET, at_least=False, interval=(least, bound))
    print(
        f"metrics cost {cost:.2%} of throughput, upper 95% bound {bound:.2%} ({PAIRS} pairs); "
        f"at most {TARGET:.0%}; met: {met}"
    )


if __name__ == "__main__":
    main()
