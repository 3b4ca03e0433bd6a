"""Whether the comparison finds a difference where there is none: one configuration under two names.

Each run has servers of its own, the reference among them.
"""

from __future__ import annotations

from typing import Any

from litmeter.measure.comparison import compare
from litmeter.params import load_params
from litmeter.paths import MODEL
from litmeter.stats.comparison import ratio
from litmeter.system.machine import exclusive_machine
from studies.harness import DEVICE, all_bodies, keep_runs

RUNS = 10
SECONDS = 480.0
REFERENCE, CONFIGURATION = "e1_baseline", "candidate"


def run(number: int) -> dict[str, Any]:
    """The ratio of the twins in one comparison."""
    params = load_params()
    twins = {name: params.configuration(CONFIGURATION) for name in ("one", "other")}
    configurations = {REFERENCE: params.configuration(REFERENCE), **twins}
    settings = params.comparison.model_copy(update={"reference": REFERENCE, "seconds": SECONDS})
    load = params.load.model_copy(update={"seed": params.load.seed + number})
    with exclusive_machine():
        bodies = all_bodies(load.request_body)
        comparison = compare(configurations, MODEL, DEVICE, bodies, load, settings, SECONDS)
    rates = comparison.rates(settings.users[0])
    own = ratio(rates, "one", "other", REFERENCE)
    assert own.low is not None
    assert own.high is not None
    return {
        "ratio": round(own.ratio, 4),
        "low": round(own.low, 4),
        "high": round(own.high, 4),
        "resolved": own.resolved,
        "rounds": len(rates["one"]),
    }


if __name__ == "__main__":
    keep_runs("twins", RUNS, run, seconds=SECONDS)
