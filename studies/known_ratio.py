"""The comparison of stub servers whose speeds are known, while all of them become slower and faster again.

Their service times are 1 : 1.05 : 1.2, and 1.4 times as long in every other 20 seconds.
"""

from __future__ import annotations

from contextlib import ExitStack

from litmeter.load import load_generator
from litmeter.load.stub import BODY, running_stub
from litmeter.measure.log import Log
from litmeter.measure.rounds import head_to_head
from litmeter.measure.run import run
from litmeter.measure.subjects import Target
from litmeter.stats.ratios import ranks, ratios
from litmeter.system.machine import exclusive_machine
from studies.harness import TIMEOUT_S, rates, write_result

TIMES = {"reference": 1.0, "5% slower": 1.05, "20% slower": 1.2}
SERVICE_S = 0.02
PARALLEL = 2
USERS = 8
SLOW_EVERY_S = 20.0
SECONDS = 330.0


def main() -> None:
    """Compare for SECONDS, print the ratios with their intervals, and keep them."""
    log = Log()
    with exclusive_machine(), ExitStack() as stack, load_generator([BODY], "application/json") as generator:
        subjects = {}
        for name, factor in TIMES.items():
            stub = stack.enter_context(running_stub(SERVICE_S * factor, PARALLEL, slow_every_s=SLOW_EVERY_S))
            subjects[name] = Target(stub.url, generator)
        schedule = head_to_head(list(TIMES), USERS, SECONDS, seed=0, timeout_s=TIMEOUT_S)
        run(schedule, subjects, log, SECONDS)
    by_round = {name: rates([row for row in log.rows if row.subject == name]) for name in TIMES}
    measured, rank_of = ratios(by_round, "reference"), ranks(by_round, "reference")
    result = {
        name: {
            "truth": round(1 / factor, 4),
            "ratio": round(measured[name].ratio, 4),
            "low": round(measured[name].low or 0.0, 4),
            "high": round(measured[name].high or 0.0, 4),
            "rank": rank_of[name],
        }
        for name, factor in TIMES.items()
    }
    write_result("known_ratio", {"ratios": result, "rounds": len(by_round["reference"])})
    for name, figures in result.items():
        print(f"{name}: {figures}")


if __name__ == "__main__":
    main()
