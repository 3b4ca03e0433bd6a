"""The comparison of stub servers whose speeds are known, while all of them become slower and faster again.

Their service times are 1 : 1.05 : 1.2, and 1.4 times as long in every other 20 seconds.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from time import monotonic

from litmeter.load import load_generator
from litmeter.load.stub import BODY, running_stub
from litmeter.measure.comparison import Comparison, PausedServer, RoundRunner
from litmeter.params import load_params
from litmeter.serve.launcher import RunningServer
from litmeter.stats.comparison import ranks, ratios
from litmeter.system.machine import exclusive_machine
from litmeter.system.progress import bar
from studies.harness import write_result

TIMES = {"reference": 1.0, "5% slower": 1.05, "20% slower": 1.2}
SERVICE_S = 0.02
PARALLEL = 2
USERS = 8
SLOW_EVERY_S = 20.0
SECONDS = 330.0


def main() -> None:
    """Compare for SECONDS, print the ratios with their intervals, and keep them."""
    comparison = Comparison("reference", list(TIMES))
    with (
        exclusive_machine(),
        ExitStack() as stack,
        load_generator([BODY], "application/json") as generator,
        bar(round(SECONDS), "known ratio", "s") as progress,
    ):
        group = []
        for name, factor in TIMES.items():
            stub = stack.enter_context(running_stub(SERVICE_S * factor, PARALLEL, slow_every_s=SLOW_EVERY_S))
            group.append(PausedServer(name, RunningServer(stub.url, stub.process, 0.0, Path("/dev/null"))))
        deadline = monotonic() + SECONDS

        def show(text: str) -> None:
            progress.set_postfix_str(text)
            progress.update(max(0, round(SECONDS - (deadline - monotonic())) - progress.n))

        runner = RoundRunner(comparison, generator, load_params().load, show)
        runner.run_rounds(group, (USERS,), deadline)
    rates = comparison.rates(USERS)
    measured, rank_of = ratios(rates, "reference"), ranks(rates, "reference")
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
    write_result("known_ratio", {"ratios": result, "rounds": len(rates["reference"])})
    for name, figures in result.items():
        interval = f"{figures['low']} to {figures['high']}"
        print(f"{name}: {figures['ratio']} ({interval}), truth {figures['truth']}, rank {figures['rank']}")


if __name__ == "__main__":
    main()
