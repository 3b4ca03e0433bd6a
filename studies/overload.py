"""Three times what a server can do, offered for a minute: goodput, memory, and how long anyone waits.

Of e7_tuned, and of LitAPIs by the direct transport, a heavy one to a light one. Open loops of Poisson
arrivals, over more connections than the server lets wait, in turn with closed loops, whose rates before and
after are the peak.
"""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from statistics import median
from typing import Any

import numpy as np

from litmeter.kinds.registry import read as read_keys
from litmeter.measure.log import Log
from litmeter.measure.run import run
from litmeter.measure.turn import Sample, Schedule, Turn, measure
from litmeter.stats.records import OK, Floats
from litmeter.system.machine import exclusive_machine
from studies.harness import (
    NUMBER,
    SERVER,
    Case,
    configuration,
    known,
    load_plan,
    memory_mib,
    ratios,
    summary,
    watched_server,
    write_result,
)

TIMES = 3
ROUNDS = 6
OVERLOAD_S = 10.0
PEAK_S = 5.0
WARMUP_S = 2.0
CONNECTIONS = 512
MAX_QUEUE = 64
USERS = 32
PRODUCTS = (240, 60, 4)


def overload() -> Schedule[tuple[list[Sample], list[Sample]]]:
    """The peak, TIMES its rate, the peak again and so on: the turns at the peak, and those above it."""
    peaks = [(yield from measure(Turn(SERVER, load_plan(USERS, PEAK_S, seed=0))))]
    above = []
    for seed in range(1, ROUNDS + 1):
        offered_rps = TIMES * known(peaks[-1].row.rate_rps)
        plan = load_plan(CONNECTIONS, OVERLOAD_S, seed=seed, warmup_s=WARMUP_S, rate_rps=offered_rps)
        above.append((yield from measure(Turn(SERVER, plan))))
        peaks.append((yield from measure(Turn(SERVER, load_plan(USERS, PEAK_S, seed=seed)))))
    return peaks, above


def main() -> None:
    """Overload each server; keep and print what came of it."""
    common = {"max_batch_size": 8, "threads_per_worker": 1, "transport": "direct"}
    cases = {"e7_tuned": Case(configuration("e7_tuned"))}
    for products in PRODUCTS:
        keys = common | {"api": "studies.apis:Product", "api_kwargs": {"products": products}}
        cases[f"LitAPI of {products} matrix products"] = Case(read_keys(keys), NUMBER)
    result = {}
    for name, case in cases.items():
        result[name] = overloaded(case)
        print(f"{name}: {result[name]}", flush=True)
        write_result("overload", {"max_queue": MAX_QUEUE, **result})


def overloaded(case: Case) -> dict[str, Any]:
    """Rates, answers and waits of a server at its peak and at TIMES that."""
    settings = case.settings.model_copy(update={"max_queue": MAX_QUEUE})
    seconds = ROUNDS * (OVERLOAD_S + WARMUP_S + PEAK_S) + PEAK_S
    with exclusive_machine(), watched_server(settings, case.form) as (server, subjects):
        before_mib = memory_mib(server.process.pid)
        peaks, above = run(overload(), subjects, Log(), seconds)
        after_mib = memory_mib(server.process.pid)
    peak_rps = [known(one.row.rate_rps) for one in peaks]
    around_rps = [(left + right) / 2 for left, right in pairwise(peak_rps)]
    records = [one.requests for one in above]
    inside = np.concatenate([record.in_window for record in records])
    wait_ms = 1000 * np.concatenate([record.end - record.sent for record in records])
    code = np.concatenate([record.code for record in records])
    status = np.concatenate([record.status for record in records])
    offered_rps = [known(one.row.offered_rps) for one in above]
    return {
        "goodput_over_peak": summary(ratios([_goodput_rps(one) for one in above], around_rps)),
        "peak_rps": round(median(peak_rps), 1),
        "offered_over_peak": [round(ratio, 2) for ratio in ratios(offered_rps, around_rps)],
        "client_cores": {
            "peak": round(median(one.requests.cores for one in peaks), 2),
            "overload": round(median(record.cores for record in records), 2),
        },
        "answers_by_status": dict(Counter(map(str, code[inside]))),
        "good_p99_ms": _p99(wait_ms[inside & (status == OK)]),
        "refused_p99_ms": _p99(wait_ms[inside & (code == 503)]),
        "longest_ms": round(float(wait_ms.max()), 1),
        "rss_mib": [round(before_mib, 1), round(after_mib, 1)],
    }


def _goodput_rps(sample: Sample) -> float:
    """Good answers a second that came in the windows."""
    record = sample.requests
    begin, end = record.window
    came = record.end[record.status == OK]
    return float(np.sum((came >= begin) & (came < end)) / (end - begin))


def _p99(values: Floats) -> float | None:
    return round(float(np.percentile(values, 99)), 1) if len(values) else None


if __name__ == "__main__":
    main()
