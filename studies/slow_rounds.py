"""Whether a slow round is a server's own, or the machine's: two servers of one configuration, loaded in turn.

If it is the machine's, both are slow in the same rounds.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np

from servebench.benchmark.comparison import compare
from servebench.params import load_params
from servebench.paths import MACHINE, MODEL
from servebench.system.files import read_json
from servebench.system.machine_lock import exclusive_machine
from studies import DEVICE
from studies.harness import all_bodies, write_result

SECONDS = 300.0
TWINS = ("e1_baseline", "e1_baseline_twin")
OTHER = "e7_tuned"


def main() -> None:
    """Compare the three, and keep how much the logarithms of their rates vary and go together."""
    params = load_params()
    reference = params.configuration(TWINS[0])
    configurations = {**dict.fromkeys(TWINS, reference), OTHER: params.configuration(OTHER)}
    settings = params.comparison.model_copy(update={"reference": TWINS[0], "seconds": SECONDS})
    with exclusive_machine():
        bodies = all_bodies(params.load.request_body)
        comparison = compare(configurations, MODEL, DEVICE, bodies, params.load, settings, SECONDS)
    rates = {name: np.array(own, dtype=float) for name, own in comparison.rates(settings.users[0]).items()}
    logs = {name: np.log(own) for name, own in rates.items()}
    result = {
        "standard_deviation": {name: round(float(own.std(ddof=1)), 3) for name, own in logs.items()},
        "correlation": {
            f"{one} and {other}": round(float(np.corrcoef(logs[one], logs[other])[0, 1]), 2)
            for one, other in combinations(logs, 2)
        },
        "rates_rps": {name: [round(rate, 1) for rate in own.tolist()] for name, own in rates.items()},
        "users": settings.users[0],
        "machine": read_json(MACHINE)["id"],
    }
    print(result)
    write_result("slow_rounds", result)


if __name__ == "__main__":
    main()
