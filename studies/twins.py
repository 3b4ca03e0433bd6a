"""Whether the comparison finds a difference where there is none: one configuration under two names.

Each run has servers of its own, the reference among them. A study that was stopped goes on with the next run,
on whichever machine; delete its result to begin anew.
"""

from __future__ import annotations

from litmeter.benchmark.comparison import compare
from litmeter.params import load_params
from litmeter.paths import MACHINE, MODEL
from litmeter.stats.comparison import ratio
from litmeter.system.files import read_json
from litmeter.system.machine import exclusive_machine
from studies import DEVICE
from studies.harness import all_bodies, read_runs, write_result

RUNS = 10
SECONDS = 480.0
REFERENCE, CONFIGURATION = "e1_baseline", "candidate"
TARGET_RUNS, TARGET_WIDTH = 9, 0.1


def main() -> None:
    """Compare until there are RUNS; keep the ratio of the twins of each as soon as it has been measured."""
    params = load_params()
    twins = {name: params.configuration(CONFIGURATION) for name in ("one", "other")}
    configurations = {REFERENCE: params.configuration(REFERENCE), **twins}
    settings = params.comparison.model_copy(update={"reference": REFERENCE, "seconds": SECONDS})
    users = settings.users[0]
    runs = read_runs("twins")
    for number in range(len(runs), RUNS):
        load = params.load.model_copy(update={"seed": params.load.seed + number})
        with exclusive_machine():
            bodies = all_bodies(load.request_body)
            comparison = compare(configurations, MODEL, DEVICE, bodies, load, settings, SECONDS)
        rates = comparison.rates(users)
        own = ratio(rates, "one", "other", REFERENCE)
        assert own.low is not None
        assert own.high is not None
        runs.append(
            {
                "ratio": round(own.ratio, 4),
                "low": round(own.low, 4),
                "high": round(own.high, 4),
                "resolved": own.resolved,
                "rounds": len(rates["one"]),
                "machine": read_json(MACHINE)["id"],
            }
        )
        print(f"run {number + 1}: {runs[-1]}", flush=True)
        write_result(
            "twins",
            {
                "goal": f"no difference resolved in {TARGET_RUNS} of {RUNS} runs, intervals at most 10% wide",
                "target_width": TARGET_WIDTH,
                "runs": runs,
                "users": users,
                "seconds": SECONDS,
            },
        )


if __name__ == "__main__":
    main()
