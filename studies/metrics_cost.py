"""What the server's metrics cost: throughput with and without them, in interleaved pairs.

Both servers stand ready; the one whose turn it is not is stopped by SIGSTOP, so that it takes nothing
from the other. The cost is the mean of the pairs' log ratios, with Student's t for its interval.
"""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from servebench.params import load_params
from servebench.paths import EXPORT_FOLDER, MACHINE
from servebench.serving.launcher import RunningServer, running_server
from servebench.system.files import read_json, write_json
from servebench.system.machine_lock import exclusive_machine
from servebench.system.progress import bar
from studies.short import all_bodies, short_rates

EXPERIMENT = "e2_batching"
USERS = 4
SECONDS = 4.0
PAIRS = 24
T_95 = {23: 1.7138715277470473}
"""95% quantile of Student's t by degrees of freedom: the bound is one-sided."""
TARGET = 0.02
RESULT = Path("benchmarks/results/metrics_cost.json")


@contextmanager
def awake(server: RunningServer) -> Iterator[None]:
    """Let the server run for the length of the block."""
    os.killpg(server.pid, signal.SIGCONT)
    try:
        yield
    finally:
        os.killpg(server.pid, signal.SIGSTOP)


def rate(server: RunningServer, bodies: list[bytes], seed: int) -> float:
    """Requests per second in one short level."""
    with awake(server):
        return short_rates(server, bodies, (USERS,), SECONDS, seed)[USERS]


def main() -> None:
    """Measure PAIRS pairs, print the cost and keep it."""
    serve = load_params().configuration(EXPERIMENT)
    bodies = all_bodies()
    ratios: list[float] = []
    with (
        exclusive_machine(),
        running_server(EXPORT_FOLDER, serve, "cpu", 30.0, timed=False) as without,
        running_server(EXPORT_FOLDER, serve, "cpu", 30.0) as timed,
    ):
        for server in (without, timed):
            os.killpg(server.pid, signal.SIGSTOP)
        with bar(PAIRS, "pairs", "pair") as progress:
            for pair in range(PAIRS):
                order = (timed, without) if pair % 2 else (without, timed)
                rates = {server.url: rate(server, bodies, pair) for server in order}
                ratios.append(rates[timed.url] / rates[without.url])
                progress.update()
    logs = np.log(ratios)
    spread = T_95[PAIRS - 1] * float(logs.std(ddof=1)) / math.sqrt(PAIRS)
    cost, bound = 1 - math.exp(logs.mean()), 1 - math.exp(logs.mean() - spread)
    write_json(
        RESULT,
        {
            "goal": "the metrics cost at most 2% of throughput, upper 95% bound",
            "target": TARGET,
            "cost": round(cost, 4),
            "bound": round(bound, 4),
            "met": bound <= TARGET,
            "ratios": [round(ratio, 4) for ratio in ratios],
            "experiment": EXPERIMENT,
            "users": USERS,
            "machine": read_json(MACHINE)["id"],
        },
    )
    print(f"metrics cost {cost:.2%} of throughput, upper 95% bound {bound:.2%} ({PAIRS} pairs)")


if __name__ == "__main__":
    main()
