"""Ten minutes at 80% of the peak: whether memory, file handles and the tail of latency stay what they were.

An open loop of Poisson arrivals, so that a stall is not hidden by users who wait for it.
"""

from __future__ import annotations

from statistics import mean, median

import numpy as np

from litmeter.params import load_params
from litmeter.stats.records import OK
from litmeter.system.machine import exclusive_machine
from litmeter.system.progress import bar
from studies.goals import keep
from studies.harness import Case, load_plan, run_load
from studies.server_state import Held, held

SHARE = 0.8
MINUTES = 10
MINUTE_S = 60.0
TAIL_TARGET = 1.2
MEMORY_TARGET_MIB, MEMORY_TARGET_SHARE = 20.0, 0.02
"""Growth that is allowed: the larger of the two."""
CONNECTIONS = 256
USERS = 8
PEAK_S = 10.0
HELD_EVERY_S = 5.0
WHAT = f"at {SHARE:.0%} of the peak for {MINUTES} minutes"


def main() -> None:
    """Soak the server that `make serve` starts, and keep what each minute was like."""
    case = Case(load_params().serve, users=(USERS,), seconds=PEAK_S)
    samples: list[tuple[float, Held]] = []
    with exclusive_machine(), case.running() as server:
        rate_rps = SHARE * case.load(server, 0)[USERS].throughput_rps
        seconds = MINUTES * MINUTE_S
        plan = load_plan(users=CONNECTIONS, seconds=seconds, warmup_s=0.0, rate_rps=rate_rps, seed=0)
        with bar(round(seconds), "soak", "s") as progress:

            def follow(users: int, answers: int, elapsed: float) -> None:
                progress.update(round(elapsed) - progress.n)
                if elapsed >= len(samples) * HELD_EVERY_S:
                    samples.append((elapsed, held(server.pid)))

            [record] = run_load(server, case.form, [plan], on_progress=follow)
    minute = ((record.end - record.window[0]) // MINUTE_S).astype(int)
    latency_ms = 1000 * (record.end - record.start)
    p99_ms = [round(float(np.percentile(latency_ms[minute == number], 99)), 1) for number in range(MINUTES)]
    states = [[state for at, state in samples if at // MINUTE_S == number] for number in range(MINUTES)]
    rss_mib = [round(mean(state.rss_mib for state in own), 1) for own in states]
    # Within a sample connections come and go, and bodies are handed over: the middle of a minute's samples.
    counts = [[state.handles for state in own] for own in states]
    handles = [median(count) for count in counts]
    keep(
        "soak_memory",
        f"{WHAT}: growth of memory from minute 2 on, MiB",
        round(max(MEMORY_TARGET_MIB, MEMORY_TARGET_SHARE * rss_mib[1]), 1),
        [rss_mib[-1] - rss_mib[1]],
        at_least=False,
        rss_mib=rss_mib,
        rate_rps=round(rate_rps, 1),
        requests=len(record.status),
    )
    keep(
        "soak_handles",
        f"{WHAT}: file handles, most less fewest by minute, from minute 2 on",
        0,
        [max(handles[1:]) - min(handles[1:])],
        at_least=False,
        handles=handles,
        extremes=[[min(count), max(count)] for count in counts],
    )
    keep(
        "soak_errors",
        f"{WHAT}: requests without a good answer",
        0,
        [int((record.status != OK).sum())],
        at_least=False,
    )
    keep(
        "soak_tail",
        f"{WHAT}: p99 of each of the last five minutes over the median of the first five",
        TAIL_TARGET,
        [minute_ms / median(p99_ms[:5]) for minute_ms in p99_ms[-5:]],
        at_least=False,
        one_run=True,
        p99_ms=p99_ms,
    )


if __name__ == "__main__":
    main()
