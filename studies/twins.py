"""What a comparison makes of equals: three servers of the candidate beside the reference, ten times."""

from __future__ import annotations

from itertools import combinations
from typing import Any

from litmeter.params import load_params
from litmeter.stats.ratios import ratio, simultaneous
from studies.harness import Case, compare_cases, keep_runs, rates

RUNS, TWINS = 10, 3
USERS, SECONDS = 8, 90.0


def run(number: int) -> dict[str, Any]:
    """Rates in each round, and the twins' ratios with simultaneous intervals."""
    params = load_params()
    cases = {f"twin {twin}": Case(params.serve) for twin in range(1, TWINS + 1)}
    cases |= {"reference": Case(params.configuration(params.comparison.reference))}
    turns = compare_cases(cases, [USERS], SECONDS)[USERS]
    by_round = {name: rates(rows) for name, rows in turns.items()}
    error = simultaneous(len(list(combinations(cases, 2))))
    pairs = list(combinations(list(cases)[:TWINS], 2))
    found = [ratio(by_round, name, other, other, error) for other, name in pairs]
    return {
        "ratios": [[round(one.ratio, 4), round(one.low or 0, 4), round(one.high or 0, 4)] for one in found],
        "resolved": any(one.resolved for one in found),
        "rates": by_round,
    }


def main() -> None:
    """Run RUNS times, and say how many found a difference."""
    runs = keep_runs("twins", RUNS, run, seconds=SECONDS)
    print(f"{sum(one['resolved'] for one in runs)} of {len(runs)} found a difference between equals")


if __name__ == "__main__":
    main()
