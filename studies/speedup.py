"""How much faster the seventh experiment is than the other six.

Its rate over that of the first is the stage ``comparison``'s; that over the best of the others is measured,
each at its best level.
"""

from __future__ import annotations

import math
from statistics import median

from litmeter.benchmark.rows import ComparisonRow
from litmeter.params import load_params
from litmeter.paths import COMPARISON
from litmeter.system.files import read_rows
from studies.goals import keep
from studies.harness import Case, measure_rounds, ratios

FIRST, TUNED = "e1_baseline", "e7_tuned"
FIRST_TARGET, OTHERS_TARGET = 8.0, 3.5
"""Times the rate of the first, and of the best of those between."""
USERS = (1, 8, 32)
SECONDS = 2.0
ROUNDS = 5


def main() -> None:
    """Measure all seven, and keep the two ratios."""
    keep_compared()
    params = load_params()
    cases = {
        name: Case(settings, users=USERS, seconds=SECONDS, form=params.load.request_body)
        for name, settings in params.experiments.items()
    }
    found = measure_rounds("speedup", cases, ROUNDS)
    best = {
        name: [max(row.throughput_rps for row in levels.values()) for levels in rounds]
        for name, rounds in found.items()
    }
    others = [rates for name, rates in best.items() if name not in (FIRST, TUNED)]
    median_rps = {name: round(median(rates), 2) for name, rates in best.items()}
    keep(
        "speedup_best",
        f"{TUNED} serves at least {OTHERS_TARGET:g} times the best of e2 to e6",
        OTHERS_TARGET,
        ratios(best[TUNED], [max(rates) for rates in zip(*others, strict=True)]),
        median_rps=median_rps,
    )


def keep_compared() -> None:
    """Keep the ratio to the first that the stage ``comparison`` has measured, with its interval."""
    users = load_params().comparison.users[0]
    rows = read_rows(COMPARISON, ComparisonRow)
    [row] = [row for row in rows if (row.users, row.experiment) == (users, TUNED)]
    keep(
        "speedup_baseline",
        f"{TUNED} serves at least {FIRST_TARGET:g} times {FIRST} (stage comparison, {users} users)",
        FIRST_TARGET,
        [row.ratio or 0.0],
        interval=(row.ratio_low or 0.0, row.ratio_high or math.inf),
        rounds=row.rounds,
    )


if __name__ == "__main__":
    main()
