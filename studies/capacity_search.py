"""How well a capacity search finds the capacity of queues that are known: 300 simulated searches of each."""

from __future__ import annotations

import math

import numpy as np

from litmeter.stats.capacity import BLOCKS, CapacitySearch, Probe
from litmeter.system.progress import bar
from litmeter.system.tables import markdown_table
from studies.harness import read_result, write_result
from studies.queues import QUEUES, Queue

RESULT = "capacity_search"
SEEDS = 300
MISS, TOLERANCE, REQUESTS = 0.05, 0.04, 1000
PEAK_NOISE = 0.01
"""Standard deviation of a measured peak, as a share of it."""
MOST_PROBES = 60
WITHIN = 0.05


def search(queue: Queue, seed: int) -> CapacitySearch:
    """A search on a simulated queue, whose peak is measured before and after each probe."""
    rng = np.random.default_rng(seed)
    found = CapacitySearch(MISS, TOLERANCE)
    before_rps = queue.peak_rps * rng.normal(1, PEAK_NOISE)
    while not (found.resolved or found.above_range) and len(found.probes) < MOST_PROBES:
        rate_rps = found.next_load() * before_rps
        warm_up = max(int(rate_rps), 50)
        times = queue.times(rng, rate_rps, REQUESTS + warm_up)[warm_up:]
        missed = tuple(float(block.mean()) for block in np.array_split(times > queue.objective_s, BLOCKS))
        after_rps = queue.peak_rps * rng.normal(1, PEAK_NOISE)
        found.probes.append(Probe(rate_rps, math.sqrt(before_rps * after_rps), missed, REQUESTS))
        before_rps = after_rps
    return found


def summary(queue: Queue, searches: list[CapacitySearch]) -> dict[str, float]:
    """How far the found capacities lie from the truth, and how often their intervals hold it."""
    truth = math.log(queue.capacity_rps / queue.peak_rps)
    curves = [curve for one in searches if (curve := one.curve()) is not None]
    errors = np.array([curve.load - truth for curve in curves])
    held = [curve.interval[0] <= truth <= curve.interval[1] for curve in curves]
    bands = [curve.shares(np.array([truth]))[1:] for curve in curves]
    return {
        "capacity_rps": round(queue.capacity_rps, 2),
        "within": round(float(np.mean(np.abs(np.expm1(errors)) <= WITHIN)), 3),
        "bias": round(float(np.mean(np.expm1(errors))), 4),
        "held": round(float(np.mean(held)), 3),
        "band_held": round(float(np.mean([low[0] <= MISS <= high[0] for low, high in bands])), 3),
        "resolved": round(sum(one.resolved for one in searches) / len(searches), 3),
        "requests": float(np.median([REQUESTS * len(one.probes) for one in searches])),
    }


def table() -> str:
    """A row per queue, as Markdown."""
    kept = read_result(RESULT)
    head = [
        *("queue: slots, service, objective", "capacity, req/s", f"within {WITHIN:.0%}", "bias"),
        *("interval holds it", "band holds it", f"resolved within {MOST_PROBES} probes", "requests, median"),
    ]
    rows = [
        [
            name,
            f"{row['capacity_rps']:.1f}",
            f"{row['within']:.1%}",
            f"{row['bias']:+.1%}",
            f"{row['held']:.1%}",
            f"{row['band_held']:.1%}",
            f"{row['resolved']:.1%}",
            f"{row['requests']:,.0f}",
        ]
        for name, row in kept["queues"].items()
    ]
    return markdown_table(head, rows)


def main() -> None:
    """Simulate, print and keep the findings."""
    result = {}
    with bar(len(QUEUES) * SEEDS, "capacity searches", "search") as progress:
        for queue in QUEUES:
            searches = []
            for seed in range(SEEDS):
                searches.append(search(queue, seed))
                progress.update()
            result[queue.name] = summary(queue, searches)
            print(f"{queue.name}: {result[queue.name]}", flush=True)
    write_result(RESULT, {"seeds": SEEDS, "tolerance": TOLERANCE, "queues": result})


if __name__ == "__main__":
    main()
