"""Three times what a server can do, offered for a minute: goodput, memory, and how long anyone waits.

An open loop of Poisson arrivals, over more connections than the server lets wait. The peak of the same
minutes is that of a closed loop before it and after it.
"""

from __future__ import annotations

from collections import Counter
from statistics import mean

import numpy as np

from litmeter.benchmark.telemetry import Telemetry
from litmeter.params import load_params
from litmeter.stats.records import OK, WINDOWS, LoadRecord
from litmeter.system.machine import exclusive_machine
from litmeter.system.progress import bar
from studies.goals import keep
from studies.harness import Case, load_plan, run_load
from studies.server_state import Held, held

TIMES = 3
GOODPUT_TARGET = 0.9
MEMORY_TARGET_MIB = 20
SECONDS = 60.0
WARMUP_S = 2.0
CONNECTIONS = 512
MAX_QUEUE = 64
USERS = 32
PEAK_S = 6.0


def goodput_rps(record: LoadRecord) -> list[float]:
    """Good answers per second in each of the windows."""
    edges = record.window_edges[-WINDOWS - 1 :]
    answers, _ = np.histogram(record.end[record.status == OK], edges)
    return [float(rps) for rps in answers / np.diff(edges)]


def main() -> None:
    """Overload the server once and keep what came of it."""
    settings = load_params().configuration("e7_tuned").model_copy(update={"max_queue": MAX_QUEUE})
    case = Case(settings, users=(USERS,), seconds=PEAK_S)
    memory: list[Held] = []
    with exclusive_machine(), case.running() as server:
        before = case.load(server, 0)[USERS].throughput_rps
        offered_rps = TIMES * before
        plan = load_plan(users=CONNECTIONS, seconds=SECONDS, warmup_s=WARMUP_S, rate_rps=offered_rps, seed=0)
        with (
            Telemetry(server.pid, interval_s=0.5) as telemetry,
            bar(round(SECONDS), "overload", "s") as progress,
        ):
            [record] = run_load(
                server,
                case.form,
                [plan],
                on_start=telemetry.follow_client,
                on_progress=lambda users, answers, seconds: progress.update(round(seconds) - progress.n),
                on_edge=lambda users, place: memory.append(held(server.pid)),
            )
            usage = telemetry.usage(*record.window)
        peak_rps = mean((before, case.load(server, 1)[USERS].throughput_rps))
    inside = record.in_window
    wait_ms = 1000 * (record.end - record.sent)
    good_ms = wait_ms[inside & (record.status == OK)]
    refused_ms = wait_ms[inside & (record.code == 503)]
    keep(
        "overload",
        f"goodput at {TIMES} times the peak rate, over the closed loop's peak",
        GOODPUT_TARGET,
        [rps / peak_rps for rps in goodput_rps(record)],
        one_run=True,
        peak_rps=round(peak_rps, 1),
        offered_rps=round(offered_rps, 1),
        answers_by_status=dict(Counter(str(code) for code in record.code[inside])),
        good_p99_ms=round(float(np.percentile(good_ms, 99)), 1),
        refused_p99_ms=round(float(np.percentile(refused_ms, 99)), 1) if len(refused_ms) else None,
        longest_ms=round(float(wait_ms.max()), 1),
        client_cores=round(usage.client_cores or 0, 3),
        server_cores=round(usage.server_cores or 0, 3),
        max_queue=MAX_QUEUE,
    )
    keep(
        "overload_memory",
        "growth of the server's memory in that minute, MiB",
        MEMORY_TARGET_MIB,
        [memory[-1].rss_mib - memory[0].rss_mib],
        at_least=False,
        rss_mib=[round(state.rss_mib, 1) for state in memory],
    )


if __name__ == "__main__":
    main()
