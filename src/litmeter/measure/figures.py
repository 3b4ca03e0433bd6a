"""The figures of a turn: from its requests, what the server counted, and what the machine did meanwhile."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.special import stdtrit

from litmeter.load import LoadPlan
from litmeter.measure.rows import TurnRow
from litmeter.measure.server_metrics import Scrape, between
from litmeter.measure.telemetry import Usage
from litmeter.measure.turn import Turn, Work, configuration_of
from litmeter.stats.rates import Throughput, percentile, throughput
from litmeter.stats.records import (
    FAILED,
    OK,
    TIMED_OUT,
    WINDOWS,
    Floats,
    LoadRecord,
    block_rates,
    fewest_answers,
    late_share,
    spread,
    steady,
    window_means,
)
from litmeter.system.files import rounded
from litmeter.system.tables import pluralise

SERVED = "served"
CLIENT_BUSY = 0.9
"""Share of a core: the load generator is a single thread, and may limit the rate above this."""
IDLE_SHARE = 0.05
"""Of the users' time in a closed loop, without a request in flight, above which the turn does not count."""
OTHER_LOAD_PERCENT = 10.0
"""CPU of the machine, used by other processes or by the hypervisor, above which there is a warning."""
SLOWDOWN_SHARE = 0.1
"""Drop of the CPU's frequency above which there is a warning."""
GROWTH_BLOCKS, GROWTH_CERTAINTY = 15, 0.975
"""Parts of an open loop's windows, of which the last third's latencies are compared with the first's. At
70% load 4% of the loads or fewer seem to grow, whether they have 200 requests or 3,000; simulated."""
MOMENT_S = 1e-6
"""Length of a request that counts only where it ended."""
BATCH_GAP_S = 0.02
"""Answers that follow each other sooner come from one batch, or from batches that ended together."""
ROLES = ("http", "worker", "manager")
"""Processes of the server: HTTP, inference, and all others, of which LitServe's manager alone has work."""


def served_row(
    turn: Turn,
    number: int,
    at_s: float,
    seconds: float,
    record: LoadRecord,
    usage: Usage,
    scrapes: tuple[Scrape, Scrape] | None = None,
    memory_bytes: int | None = None,
) -> TurnRow:
    """The row of a turn of requests.

    A rate counts good answers only, a request in the share of it that lies within the windows. Latencies are
    those of the good requests that ended within the windows or, in an open loop, were due there. The counts
    are of the whole turn, warm-up and last requests included: ``sent = good + failed + timed_out``.

    Args:
        at_s, seconds: when it began, since the log did, and what it took.
        scrapes: the server's metrics before and after.
        memory_bytes: of its processes.
    """
    assert isinstance(turn.load, LoadPlan)
    good = record.status == OK
    rate = rate_of(record)
    inside = good & record.in_window
    latency_ms = (record.end[inside] - record.start[inside]) * 1000
    mean_ms = float(latency_ms.mean()) if len(latency_ms) else None
    times = between(*scrapes) if scrapes else None
    answered = int(good.sum())
    by_role = seconds_by_role(usage, scrapes[1].roles) if scrapes else {}
    settles = turn.load.max_windows > WINDOWS
    return TurnRow(
        turn=number,
        at_s=round(at_s, 3),
        seconds=round(seconds, 3),
        round=turn.round,
        subject=configuration_of(turn.subject),
        work=SERVED,
        users=record.users,
        offered_rps=rounded(record.rate_rps, 3),
        batch_size=rounded(times.batch_size if times else None, 2),
        rate_rps=rounded(rate.rps or None, 3),
        low_rps=rounded(rate.low_rps, 3) if rate.rps else None,
        high_rps=rounded(rate.high_rps, 3) if rate.rps else None,
        bound_rps=None if rate.rps else rounded(highest_rps(record), 3),
        answers=len(latency_ms),
        sent=len(record.status),
        failed=int((record.status == FAILED).sum()),
        timed_out=int((record.status == TIMED_OUT).sum()),
        missed=None if turn.slo_ms is None else rounded(late_share(record, turn.slo_ms), 5),
        mean_ms=rounded(mean_ms, 2),
        p50_ms=rounded(percentile(latency_ms, 50), 2),
        p95_ms=rounded(percentile(latency_ms, 95), 2),
        p99_ms=rounded(percentile(latency_ms, 99), 2),
        stage_ms=json.dumps({stage: round(ms, 3) for stage, ms in times.stage_ms.items()} if times else {}),
        batches=json.dumps({size: count for size, count in times.batches.items() if count} if times else {}),
        server_cores=per_second(usage.server_s, usage),
        client_cores=per_second(usage.client_s, usage),
        http_cpu_ms=per_answer_ms(by_role.get("http"), answered),
        workers_cpu_ms=per_answer_ms(by_role.get("worker"), answered),
        manager_cpu_ms=per_answer_ms(by_role.get("manager"), answered),
        client_cpu_ms=per_answer_ms(usage.client_s, answered),
        late_ms=rounded(lateness_ms(record), 2),
        memory_mib=None if memory_bytes is None else round(memory_bytes / 2**20, 1),
        void="; ".join(void_reasons(record, rate, mean_ms, settles=settles)),
        **machine_columns(usage),
    )


def inprocess_row(
    turn: Turn, number: int, at_s: float, seconds: float, blocks: Floats, cpu_ms: float, usage: Usage
) -> TurnRow:
    """The row of a turn of work in-process.

    Args:
        blocks: images per second of all busy workers, in equal parts of the turn.
        cpu_ms: CPU time of an image.
    """
    assert isinstance(turn.load, Work)
    rate = throughput(blocks)
    return TurnRow(
        turn=number,
        at_s=round(at_s, 3),
        seconds=round(seconds, 3),
        round=turn.round,
        subject=configuration_of(turn.subject),
        work=turn.load.kind,
        batch_size=turn.load.batch_size,
        rate_rps=round(rate.rps, 3),
        low_rps=round(rate.low_rps, 3),
        high_rps=round(rate.high_rps, 3),
        workers_cpu_ms=round(cpu_ms, 3),
        **machine_columns(usage),
    )


def rate_of(record: LoadRecord) -> Throughput:
    """Good answers per second, with the interval of this turn's rate alone.

    Where the first answers took so long that the record has a single window, the rate runs from its first
    batch of answers to its last, and the first is not counted: while it was made, nothing else had begun. Of
    one answer per user, which all began together, it runs from that begin.
    """
    good = record.status == OK
    if len(record.window_edges) - 1 < WINDOWS:
        end = np.sort(record.end[good])
        return rate_of_batches(end if len(end) > record.users else np.append(record.start.min(), end))
    opened, closed = record.window
    # In an open loop a queue may grow: time that a request spends waiting in it is no work done.
    start = record.start if record.rate_rps is None else record.end - MOMENT_S
    return throughput(block_rates(start[good], record.end[good], opened, closed))


def rate_of_batches(end: Floats) -> Throughput:
    """The rate of answers that ended at these times, ascending, from the first batch to the last.

    Its interval is that of a count of batches, as if they came at random: 0 to infinity for few.
    """
    batches = np.split(end, np.flatnonzero(np.diff(end) > BATCH_GAP_S) + 1)
    if len(end) == 0 or len(batches) < 2:
        return Throughput(0.0, 0.0, math.inf)
    first, last = batches[0], batches[-1]
    rps = (len(end) - len(first)) / float(last[-1] - first[-1])
    factor = math.exp(1.96 / math.sqrt(len(batches) - 1))
    return Throughput(rps, rps / factor, rps * factor)


def highest_rps(record: LoadRecord) -> float | None:
    """What an unmeasured rate was below: all good answers, and one more per user, over the turn's time.

    None where nothing was sent.
    """
    if not len(record.end):
        return None
    good = int((record.status == OK).sum())
    return float((good + record.users) / (record.end.max() - record.start.min()))


def latencies_ms(record: LoadRecord) -> Floats:
    """Latencies of the good answers in the measured windows."""
    latencies: Floats = 1000 * (record.end - record.start)[(record.status == OK) & record.in_window]
    return latencies


def machine_columns(usage: Usage) -> dict[str, Any]:
    """What the machine did in a turn."""
    return {
        "cpu_percent": rounded(usage.cpu_percent, 1),
        "other_percent": rounded(usage.other_percent, 1),
        "steal_percent": rounded(usage.steal_percent, 1),
        "cpu_mhz": rounded(usage.mhz, 0),
        "gpu_percent": rounded(usage.gpu_percent, 1),
        "gpu_memory_mib": rounded(usage.gpu_memory_mib, 0),
        "gpu_power_w": rounded(usage.gpu_power_w, 0),
        "warnings": "; ".join(machine_warnings(usage)),
    }


def void_reasons(record: LoadRecord, rate: Throughput, mean_ms: float | None, *, settles: bool) -> list[str]:
    """Why a turn's figures cannot be relied on; empty where they can.

    Args:
        settles: whether windows were repeated until the last three agree.
    """
    reasons = []
    bad = int((record.status != OK).sum())
    if bad:
        timed_out = int((record.status == TIMED_OUT).sum())
        codes = failure_codes(record)
        by_code = f" ({codes})" if codes else ""
        reasons.append(f"{bad - timed_out} failed and {timed_out} timed out of {len(record.status)}{by_code}")
    if mean_ms is None:
        return [*reasons, "no answer within the window"]
    if record.rate_rps is not None:
        reasons += _open_loop_reasons(record, rate)
    elif len(record.window_edges) > WINDOWS:
        reasons += _closed_loop_reasons(record, settles=settles)
    if record.cores > CLIENT_BUSY:
        reasons.append(f"client-bound: the load generator used {record.cores:.0%} of a core")
    return reasons


def failure_codes(record: LoadRecord) -> str:
    """How many requests failed with which status, as "status 503: 12, no answer: 1"; most frequent first."""
    codes = Counter(int(code) for code in record.code[record.status == FAILED])
    return ", ".join(
        f"{f'status {code}' if code else 'no answer'}: {count}" for code, count in codes.most_common()
    )


def _closed_loop_reasons(record: LoadRecord, *, settles: bool) -> list[str]:
    """A closed loop counts if all users were busy, and its last windows agree if asked to."""
    reasons = []
    if settles:
        good = record.status == OK
        edges = record.window_edges[-WINDOWS - 1 :]
        rates, latencies = window_means(record.start[good], record.end[good], edges)
        if not steady(rates, latencies, fewest_answers(record.end[good], edges)):
            widest = max(spread(rates), spread(latencies))
            spreads = f"differ by {widest:.0%} from their mean"
            finding = spreads if widest < math.inf else "have one without an answer"
            reasons.append(f"unstable: the last {WINDOWS} windows {finding}")
    opened, closed = record.window
    busy_s = np.clip(np.minimum(record.end, closed) - np.maximum(record.start, opened), 0.0, None).sum()
    in_flight = busy_s / (closed - opened)
    if abs(in_flight / record.users - 1) > IDLE_SHARE:
        users = pluralise(record.users, "user")
        reasons.append(f"{in_flight:.2f} requests in flight on average, not those of {users}")
    return reasons


def _open_loop_reasons(record: LoadRecord, rate: Throughput) -> list[str]:
    """An open loop counts if the server kept up with the arrivals."""
    opened, closed = record.window
    arrivals_rps = float(((record.start > opened) & (record.start <= closed)).sum()) / (closed - opened)
    if rate.high_rps < arrivals_rps:
        return [f"overloaded: {rate.rps:.1f} of {arrivals_rps:.1f} req/s were answered well"]
    return []


def latency_grows(record: LoadRecord) -> bool:
    """Whether an open loop's requests take longer and longer, and more of them wait at the end.

    The mean latency of the last third of the windows lies above that of the first by more than the means
    of their parts vary (Student's t), and more requests are in flight when the windows close than when they
    opened. A server at its limit shows it long before it answers noticeably fewer requests than arrive.
    """
    opened, closed = record.window
    inside = (record.status == OK) & record.in_window
    part = ((record.start[inside] - opened) / (closed - opened) * GROWTH_BLOCKS).astype(int)
    part = np.minimum(part, GROWTH_BLOCKS - 1)
    counts = np.bincount(part, minlength=GROWTH_BLOCKS)
    if not counts.all():
        return False
    latencies = (record.end - record.start)[inside]
    means = np.bincount(part, latencies, GROWTH_BLOCKS) / counts
    third = GROWTH_BLOCKS // 3
    first, last = means[:third], means[-third:]
    error = math.sqrt((first.var(ddof=1) + last.var(ddof=1)) / third)
    beyond = last.mean() - first.mean() > float(stdtrit(2 * third - 2, GROWTH_CERTAINTY)) * error
    return bool(beyond) and _in_flight(record, closed) > _in_flight(record, opened)


def _in_flight(record: LoadRecord, time: float) -> int:
    return int(((record.start <= time) & (record.end > time)).sum())


def machine_warnings(usage: Usage) -> list[str]:
    """What else the machine did that may have changed the rate."""
    warnings = []
    if usage.other_percent is not None and usage.other_percent > OTHER_LOAD_PERCENT:
        warnings.append(f"other processes used {usage.other_percent:.0f}% of the machine")
    if usage.steal_percent is not None and usage.steal_percent > OTHER_LOAD_PERCENT:
        warnings.append(f"the hypervisor took {usage.steal_percent:.0f}% of the machine")
    if usage.cores and usage.cores[0] != usage.cores[1]:
        warnings.append(f"the number of cores changed between {usage.cores[0]:g} and {usage.cores[1]:g}")
    if usage.mhz and usage.best_mhz and usage.mhz < (1 - SLOWDOWN_SHARE) * usage.best_mhz:
        warnings.append(f"the CPU ran at {usage.mhz:.0f} MHz of {usage.best_mhz:.0f} before")
    if usage.throttled_s:
        warnings.append(f"a CPU quota held processes back for {usage.throttled_s:.1f} s")
    return warnings


def seconds_by_role(usage: Usage, roles: Mapping[int, str]) -> dict[str, float]:
    """CPU seconds by role; processes without a role count as the manager's."""
    seconds = dict.fromkeys(ROLES, 0.0)
    for pid, used in usage.process_s.items():
        seconds[roles.get(pid, "manager")] += used
    return seconds


def lateness_ms(record: LoadRecord) -> float | None:
    """99th percentile of the delay from when a request was due until it was sent, ms.

    In a closed loop a request is due when the same user's last one has been answered with 200.
    """
    opened, closed = record.window
    if record.rate_rps is not None:
        late_s = (record.sent - record.start)[(record.start > opened) & (record.start <= closed)]
        return float(np.percentile(late_s, 99)) * 1000 if len(late_s) else None
    gaps_s: list[float] = []
    for user in range(record.users):
        of_user = record.user == user
        answered, next_start = record.end[of_user][:-1], record.start[of_user][1:]
        good = (record.status == OK)[of_user][:-1]
        inside = good & (answered > opened) & (next_start <= closed)
        gaps_s += list((next_start - answered)[inside])
    return float(np.percentile(gaps_s, 99)) * 1000 if gaps_s else None


def per_second(seconds: float | None, usage: Usage) -> float | None:
    """CPU seconds per second of the turn."""
    return None if seconds is None or not usage.seconds else round(seconds / usage.seconds, 3)


def per_answer_ms(seconds: float | None, answers: int) -> float | None:
    """CPU time per answer, ms."""
    return None if seconds is None or not answers else round(1000 * seconds / answers, 3)


def failed_rows(rows: Sequence[TurnRow]) -> int:
    """Requests of all turns that failed or timed out."""
    return sum(row.failed + row.timed_out for row in rows)
