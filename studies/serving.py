"""What the server does under load: ``python -m studies.serving overload`` or ``soak``.

``overload``: three times the peak for a minute: goodput, memory, waits; of e7_tuned, and of LitAPIs by the
direct transport. ``soak``: ten minutes of the candidate at 80% of the peak: memory, file handles, tail. Both
are open loops of Poisson arrivals, so that no stall is hidden by users who wait for it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from itertools import pairwise
from statistics import mean, median
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
    process_tree,
    ratios,
    start,
    summary,
    watched_server,
    write_result,
)

TUNED = "e7_tuned"

# overload
TIMES, ROUNDS, USERS, CONNECTIONS, MAX_QUEUE = 3, 6, 32, 512, 64
OVERLOAD_S, PEAK_S, WARMUP_S = 10.0, 5.0, 2.0
PRODUCTS = (240, 60, 4)

# soak
SHARE, MINUTES, MINUTE_S = 0.8, 10, 60.0
SOAK_CONNECTIONS, SOAK_USERS, SOAK_PEAK_S = 256, 8, 10.0
SAMPLE_EVERY_S = 5.0


def overload() -> None:
    """Overload each server, over more connections than it lets wait; keep and print what came of it."""
    common = {
        "max_batch_size": 8,
        "threads_per_worker": 1,
        "transport": "direct",
        "api": "studies.apis:Product",
    }
    cases = {TUNED: Case(configuration(TUNED))}
    for products in PRODUCTS:
        settings = read_keys(common | {"api_kwargs": {"products": products}})
        cases[f"LitAPI of {products} matrix products"] = Case(settings, NUMBER)
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
        peaks, above = run(overload_rounds(), subjects, Log(), seconds)
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
        "goodput_over_peak": summary(ratios([goodput_rps(one) for one in above], around_rps)),
        "peak_rps": round(median(peak_rps), 1),
        "offered_over_peak": [round(ratio, 2) for ratio in ratios(offered_rps, around_rps)],
        "client_cores": {
            "peak": round(median(one.requests.cores for one in peaks), 2),
            "overload": round(median(record.cores for record in records), 2),
        },
        "answers_by_status": dict(Counter(map(str, code[inside]))),
        "good_p99_ms": p99(wait_ms[inside & (status == OK)]),
        "refused_p99_ms": p99(wait_ms[inside & (code == 503)]),
        "longest_ms": round(float(wait_ms.max()), 1),
        "rss_mib": [round(before_mib, 1), round(after_mib, 1)],
    }


def overload_rounds() -> Schedule[tuple[list[Sample], list[Sample]]]:
    """The peak, TIMES its rate, the peak again and so on: the turns at the peak, and those above it."""
    peaks = [(yield from measure(Turn(SERVER, load_plan(USERS, PEAK_S, seed=0))))]
    above = []
    for seed in range(1, ROUNDS + 1):
        offered_rps = TIMES * known(peaks[-1].row.rate_rps)
        plan = load_plan(CONNECTIONS, OVERLOAD_S, seed=seed, warmup_s=WARMUP_S, rate_rps=offered_rps)
        above.append((yield from measure(Turn(SERVER, plan))))
        peaks.append((yield from measure(Turn(SERVER, load_plan(USERS, PEAK_S, seed=seed)))))
    return peaks, above


def goodput_rps(sample: Sample) -> float:
    """Good answers a second that came in the windows."""
    record = sample.requests
    begin, end = record.window
    came = record.end[record.status == OK]
    return float(np.sum((came >= begin) & (came < end)) / (end - begin))


def p99(values: Floats) -> float | None:
    """None without values."""
    return round(float(np.percentile(values, 99)), 1) if len(values) else None


def soak() -> None:
    """Soak the server that `make serve` starts; keep and print what each minute was like."""
    samples: dict[str, list[tuple[float, float, int]]] = defaultdict(list)
    log = Log()
    with exclusive_machine(), watched_server(configuration("candidate")) as (server, subjects):

        def watch(text: str, seconds: float, end_s: float) -> None:
            own = samples[text]
            if not own or seconds >= own[-1][0] + SAMPLE_EVERY_S:
                tree = process_tree(server.process.pid)
                handles = sum(one.num_fds() - len(one.net_connections("tcp")) for one in tree)  # not clients'
                own.append((seconds, memory_mib(server.process.pid), handles))

        run(soak_minutes(), subjects, log, SOAK_PEAK_S + MINUTES * MINUTE_S, watch)
    _, *rows = log.rows
    by_minute = [own for text, own in samples.items() if text.startswith("minute")]
    result = {
        "rate_rps": rows[0].offered_rps,
        "requests": sum(row.sent for row in rows),
        "without_a_good_answer": sum(row.failed + row.timed_out for row in rows),
        "p99_ms": [row.p99_ms for row in rows],
        "rss_mib": [round(mean(mib for _, mib, _ in own), 1) for own in by_minute],
        # Within a sample connections come and go, and bodies are handed over: a minute's median.
        "handles": [median(count for _, _, count in own) for own in by_minute],
    }
    write_result("soak", result)
    print(*result.items(), sep="\n")


def soak_minutes() -> Schedule[None]:
    """The peak, and minutes at a share of it."""
    peak = yield from measure(Turn(SERVER, load_plan(SOAK_USERS, SOAK_PEAK_S, seed=0), note="peak"))
    rate_rps = SHARE * known(peak.row.rate_rps)
    for number in range(1, MINUTES + 1):
        plan = load_plan(SOAK_CONNECTIONS, MINUTE_S, seed=number, warmup_s=0.0, rate_rps=rate_rps)
        yield from measure(Turn(SERVER, plan, number, note=f"minute {number}"))


if __name__ == "__main__":
    start(__doc__, overload, soak)
