"""Three times what a server can do, offered for a minute: goodput, memory, and how long anyone waits.

An open loop of Poisson arrivals, over more connections than the server lets wait. The peak of the same
minutes is that of a closed loop before it and after it.
"""

from __future__ import annotations

from collections import Counter
from statistics import mean

import numpy as np

from litmeter.params import load_params
from litmeter.stats.records import OK, WINDOWS, LoadRecord
from litmeter.system.machine import exclusive_machine
from litmeter.system.progress import bar
from studies.harness import Case, load_plan, memory_mib, run_load, write_result

TIMES = 3
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
    """Overload the server once; keep and print what came of it."""
    settings = load_params().configuration("e7_tuned").model_copy(update={"max_queue": MAX_QUEUE})
    case = Case(settings, users=(USERS,), seconds=PEAK_S)
    memory: list[float] = []
    with exclusive_machine(), case.running() as server:
        before = case.load(server, 0)[USERS].throughput_rps
        offered_rps = TIMES * before
        plan = load_plan(CONNECTIONS, SECONDS, seed=0, warmup_s=WARMUP_S, rate_rps=offered_rps)
        with bar(round(SECONDS), "overload", "s") as progress:
            [record] = run_load(
                server,
                case.form,
                [plan],
                on_progress=lambda users, answers, seconds: progress.update(round(seconds) - progress.n),
                on_edge=lambda users, place: memory.append(memory_mib(server.pid)),
            )
        peak_rps = mean((before, case.load(server, 1)[USERS].throughput_rps))
    inside = record.in_window
    wait_ms = 1000 * (record.end - record.sent)
    result = {
        "goodput_over_peak": [round(rps / peak_rps, 4) for rps in goodput_rps(record)],
        "peak_rps": round(peak_rps, 1),
        "offered_rps": round(offered_rps, 1),
        "answers_by_status": dict(Counter(str(code) for code in record.code[inside])),
        "good_p99_ms": _p99(wait_ms[inside & (record.status == OK)]),
        "refused_p99_ms": _p99(wait_ms[inside & (record.code == 503)]),
        "longest_ms": round(float(wait_ms.max()), 1),
        "max_queue": MAX_QUEUE,
        "rss_mib": [round(mib, 1) for mib in memory],
    }
    write_result("overload", result)
    print(result)


def _p99(values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> float | None:
    return round(float(np.percentile(values, 99)), 1) if len(values) else None


if __name__ == "__main__":
    main()
