"""Three times what a server can do, offered for a minute: goodput, memory, and how long anyone waits.

``python -m studies.overload [FOLDER module:Class BODIES]``: e7_tuned, or a LitAPI by the direct transport. An
open loop of Poisson arrivals, over more connections than the server lets wait. The peak of the same
minutes is that of a closed loop before it and after it.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from statistics import mean

import numpy as np

from litmeter.measure.bodies import read_bodies
from litmeter.measure.log import Log
from litmeter.measure.run import run
from litmeter.measure.turn import Sample, Schedule, Turn, measure
from litmeter.params import ServeSettings
from litmeter.stats.records import OK, WINDOWS, Floats
from litmeter.system.machine import exclusive_machine
from studies.harness import SERVER, configuration, known, load_plan, memory_mib, watched_server, write_result

TIMES = 3
SECONDS = 60.0
WARMUP_S = 2.0
CONNECTIONS = 512
MAX_QUEUE = 64
USERS = 32
PEAK_S = 6.0
OVERLOAD = "overload"
MEMORY_EVERY_S = 5.0


def overload() -> Schedule[list[Sample]]:
    """The peak, TIMES its rate, and the peak again."""
    before = yield from measure(Turn(SERVER, load_plan(USERS, PEAK_S, seed=0), note="peak"))
    offered_rps = TIMES * known(before.row.rate_rps)
    plan = load_plan(CONNECTIONS, SECONDS, seed=0, warmup_s=WARMUP_S, rate_rps=offered_rps)
    over = yield from measure(Turn(SERVER, plan, note=OVERLOAD))
    after = yield from measure(Turn(SERVER, load_plan(USERS, PEAK_S, seed=1), note="peak"))
    return [before, over, after]


def main() -> None:
    """Overload the server once; keep and print what came of it."""
    settings, bodies = configuration("e7_tuned"), None
    if own := sys.argv[1:]:
        folder, api, path = own
        batches = {"max_batch_size": 8, "threads_per_worker": 1, "transport": "direct"}
        settings = ServeSettings.model_validate({"api": api, "folder": folder, **batches})
        bodies = read_bodies(Path(path))
    settings, memory = settings.model_copy(update={"max_queue": MAX_QUEUE}), list[tuple[float, float]]()
    with exclusive_machine(), watched_server(settings, bodies) as (server, subjects):

        def watch(text: str, seconds: float) -> None:
            due_s = memory[-1][0] + MEMORY_EVERY_S if memory else 0.0
            if text.startswith(OVERLOAD) and seconds >= due_s:
                memory.append((seconds, memory_mib(server.pid)))

        before, over, after = run(overload(), subjects, Log(), SECONDS + 2 * PEAK_S, watch)
    record = over.requests
    edges = record.window_edges[-WINDOWS - 1 :]
    answers, _ = np.histogram(record.end[record.status == OK], edges)
    peak_rps = mean(known(one.row.rate_rps) for one in (before, after))
    inside = record.in_window
    wait_ms = 1000 * (record.end - record.sent)
    result = {
        "goodput_over_peak": (answers / np.diff(edges) / peak_rps).round(4).tolist(),
        "peak_rps": round(peak_rps, 1),
        "offered_rps": over.row.offered_rps,
        "answers_by_status": dict(Counter(str(code) for code in record.code[inside])),
        "good_p99_ms": _p99(wait_ms[inside & (record.status == OK)]),
        "refused_p99_ms": _p99(wait_ms[inside & (record.code == 503)]),
        "longest_ms": round(float(wait_ms.max()), 1),
        "max_queue": MAX_QUEUE,
        "rss_mib": [round(mib, 1) for _, mib in memory],
    }
    write_result("overload_api" if own else "overload", result)
    print(result)


def _p99(values: Floats) -> float | None:
    return round(float(np.percentile(values, 99)), 1) if len(values) else None


if __name__ == "__main__":
    main()
