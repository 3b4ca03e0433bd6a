"""Ten searches for the capacity of a live server that becomes 1.4 times as slow every other 20 seconds."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from litmeter.load import load_generator
from litmeter.load.stub import BODY, Stub, running_stub
from litmeter.measure.capacity import capacity
from litmeter.measure.log import Log
from litmeter.measure.run import run as measure
from litmeter.measure.subjects import Target
from litmeter.params import load_params
from litmeter.stats.records import Floats
from litmeter.system.machine import exclusive_machine
from studies.capacity_simulated import LONG_CHANGES, long_arrivals, long_run_rps
from studies.harness import TIMEOUT_S, keep_runs

RUNS, MAX_S = 10, 120.0
SLOTS, SERVICE_S, OBJECTIVE_S = 2, 0.01, 0.05
SLOW_EVERY_S = 20.0
STUB = "stub"


def run(number: int) -> dict[str, Any]:
    """What a search finds."""
    objective = load_params().objective.model_copy(
        update={"slo_ms": 1000 * OBJECTIVE_S, "max_s": MAX_S, "seed": number}
    )
    with (
        exclusive_machine(),
        load_generator([BODY], "application/json") as sender,
        running_stub(SERVICE_S, SLOTS, slow_every_s=SLOW_EVERY_S) as stub,
    ):
        schedule = capacity([STUB], objective, TIMEOUT_S)
        found = measure(schedule, {STUB: Target(stub.url, sender)}, Log(), MAX_S)[STUB].metrics
    columns = ("status", "capacity_rps", "low_rps", "high_rps", "probes", "seconds")
    return {column: getattr(found, column) for column in columns}


def took_s(due: Floats) -> Floats:
    """How long the stub's requests take that are due at these times."""
    stub = Stub(SERVICE_S, SLOTS, 200, in_step=False, slow_every_s=SLOW_EVERY_S, random=False)
    return np.array([stub.finish_time(time) - time for time in due.tolist()])


def main() -> None:
    """Search RUNS times, and say how many intervals hold the capacity."""
    truth_rps = long_run_rps(
        took_s, partial(long_arrivals, LONG_CHANGES * SLOW_EVERY_S), OBJECTIVE_S, SLOTS / SERVICE_S
    )
    runs = keep_runs("capacity_slowed", RUNS, run, truth_rps=round(truth_rps, 2))
    held = sum((one["low_rps"] or 0.0) <= truth_rps <= (one["high_rps"] or 0.0) for one in runs)
    print(f"{held} of {len(runs)} intervals hold {truth_rps:.1f}/s")


if __name__ == "__main__":
    main()
