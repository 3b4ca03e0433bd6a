"""Three times what a server can do, offered for a minute: goodput, memory, and how long anyone waits.

Closed loop before and after for the peak of the same minutes, between them an open loop of Poisson arrivals,
over more connections than the server lets wait.
"""

from __future__ import annotations

from collections import Counter
from statistics import mean

import numpy as np

from servebench.benchmark.telemetry import Telemetry
from servebench.loadgen import CONTENT_TYPES, Level, LoadPlan, generate
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

TIMES = 3
SECONDS = 60.0
CONNECTIONS = 512
MAX_QUEUE = 64
TIMEOUT_S = 30.0
USERS = 32
PEAK_S = 6.0


def goodput_rps(level: Level) -> list[float]:
    """Good answers per second in each of the windows."""
    ends = level.end[level.status == OK]
    edges = level.edges[-WINDOWS - 1 :]
    answers, _ = np.histogram(ends, edges)
    return [float(rps) for rps in answers / np.diff(edges)]


def main() -> None:
    """Overload the server once and keep what came of it."""
    serve = load_params().experiments["e7_tuned"].model_copy(update={"max_queue": MAX_QUEUE})
    bodies = all_bodies(serve.request_body)
    memory: list[Held] = []
    with exclusive_machine(), running_server(EXPORT_FOLDER, serve, "cpu", TIMEOUT_S) as server:

        def peak_rps(seed: int) -> float:
            return short_rates(server, bodies, (USERS,), PEAK_S, seed, serve.request_body)[USERS]

        before = peak_rps(0)
        plan = LoadPlan(CONNECTIONS, 1, 2.0, SECONDS, SECONDS, WINDOWS, TIMEOUT_S, 0, rate_rps=TIMES * before)
        with (
            Telemetry(server.pid, interval_s=0.5) as telemetry,
            bar(round(SECONDS), "overload", "s") as progress,
        ):

            def follow(users: int, answers: int, seconds: float) -> None:
                progress.update(round(seconds) - progress.n)

            [level] = generate(
                f"{server.url}/predict",
                bodies,
                CONTENT_TYPES[serve.request_body],
                [plan],
                on_start=telemetry.follow_client,
                on_progress=follow,
                on_edge=lambda users, place: memory.append(held(server.pid)),
            )
            usage = telemetry.usage(*level.window)
        peak = mean((before, peak_rps(1)))
    opened, closed = level.window
    inside = (level.end > opened) & (level.end <= closed)
    good = inside & (level.status == OK)
    refused_ms = 1000 * (level.end - level.sent)[inside & (level.code == 503)]
    keep(
        "overload",
        f"goodput at {TIMES} times the peak rate, over the closed loop's peak",
        0.9,
        [rps / peak for rps in goodput_rps(level)],
        peak_rps=round(peak, 1),
        offered_rps=round(plan.rate_rps or 0, 1),
        answers_by_status=dict(Counter(str(code) for code in level.code[inside])),
        good_p99_ms=round(float(np.percentile(1000 * (level.end - level.sent)[good], 99)), 1),
        refused_p99_ms=round(float(np.percentile(refused_ms, 99)), 1) if len(refused_ms) else None,
        longest_ms=round(float(1000 * (level.end - level.sent).max()), 1),
        client_cores=round(usage.client_cores or 0, 3),
        server_cores=round(usage.server_cores or 0, 3),
        max_queue=MAX_QUEUE,
    )
    keep(
        "overload_memory",
        "growth of the server's memory in that minute, MiB",
        20,
        [memory[-1].rss_mib - memory[0].rss_mib],
        at_least=False,
        rss_mib=[round(state.rss_mib, 1) for state in memory],
    )


if __name__ == "__main__":
    main()
