"""Ten minutes at 80% of the peak: whether memory, file handles and the tail of latency stay what they were.

An open loop of Poisson arrivals, so that a stall is not hidden by users who wait for it.
"""

from __future__ import annotations

from statistics import mean, median

import numpy as np

from servebench.loadgen import CONTENT_TYPES, LoadPlan, generate
from servebench.loadgen.generator import OK
from servebench.params import load_params
from servebench.paths import EXPORT_FOLDER
from servebench.serving.launcher import running_server
from servebench.stats.stability import WINDOWS
from servebench.system.machine_lock import exclusive_machine
from servebench.system.progress import bar
from studies.goals import keep
from studies.server_state import Held, held
from studies.short import all_bodies, short_rates

SHARE = 0.8
MINUTES = 10
MINUTE_S = 60.0
CONNECTIONS = 256
USERS = 8
PEAK_S = 10.0
SAMPLE_S = 5.0
WHAT = f"at {SHARE:.0%} of the peak for {MINUTES} minutes"


def main() -> None:
    """Soak the server that `make serve` starts, and keep what each minute was like."""
    serve = load_params().serve
    bodies = all_bodies(serve.request_body)
    samples: list[tuple[float, Held]] = []
    with exclusive_machine(), running_server(EXPORT_FOLDER, serve, "cpu", 30.0) as server:
        peak = short_rates(server, bodies, (USERS,), PEAK_S, 0, serve.request_body)[USERS]
        seconds = MINUTES * MINUTE_S
        plan = LoadPlan(CONNECTIONS, 1, 0.0, seconds, seconds, WINDOWS, 30.0, 0, rate_rps=SHARE * peak)
        with bar(round(seconds), "soak", "s") as progress:

            def follow(users: int, answers: int, elapsed: float) -> None:
                progress.update(round(elapsed) - progress.n)
                if elapsed >= len(samples) * SAMPLE_S:
                    samples.append((elapsed, held(server.pid)))

            [level] = generate(
                f"{server.url}/predict",
                bodies,
                CONTENT_TYPES[serve.request_body],
                [plan],
                on_progress=follow,
            )
    opened, _ = level.window
    minute = ((level.end - opened) // MINUTE_S).astype(int)
    latency_ms = 1000 * (level.end - level.start)
    p99_ms = [round(float(np.percentile(latency_ms[minute == number], 99)), 1) for number in range(MINUTES)]
    rss_mib = [
        round(mean(state.rss_mib for at, state in samples if at // MINUTE_S == number), 1)
        for number in range(MINUTES)
    ]
    # Within a sample connections come and go, and bodies are handed over: the middle of a minute's samples.
    counts = [[state.handles for at, state in samples if at // MINUTE_S == n] for n in range(MINUTES)]
    handles = [median(count) for count in counts]
    keep(
        "soak_memory",
        f"{WHAT}: growth of memory from minute 2 on, MiB",
        round(max(20.0, 0.02 * rss_mib[1]), 1),
        [rss_mib[-1] - rss_mib[1]],
        at_least=False,
        rss_mib=rss_mib,
        rate_rps=round(SHARE * peak, 1),
        requests=len(level.status),
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
        [int((level.status != OK).sum())],
        at_least=False,
    )
    keep(
        "soak_tail",
        f"{WHAT}: p99 of the last minute over that of the third",
        1.2,
        [p99_ms[-1] / p99_ms[2]],
        at_least=False,
        p99_ms=p99_ms,
    )


if __name__ == "__main__":
    main()
