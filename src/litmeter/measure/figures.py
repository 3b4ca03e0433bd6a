"""The figures of a turn, from its requests, the server's counters and the machine's usage."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from prometheus_client.parser import text_string_to_metric_families
from scipy.special import stdtrit

from litmeter.load import LoadPlan
from litmeter.measure.rows import OTHER_LOAD_PERCENT, TurnRow, busiest, named_others
from litmeter.measure.telemetry import Usage
from litmeter.measure.turn import Turn, Work, configuration_of
from litmeter.say.tables import pluralise
from litmeter.stats.rates import Z95, Throughput, percentile, throughput
from litmeter.stats.records import (
    FAILED,
    OK,
    TIMED_OUT,
    WINDOWS,
    Floats,
    LoadRecord,
    block_rates,
    joined,
    late_share,
    spread,
    steady,
    window_means,
)
from litmeter.system.files import rounded

CLIENT_BOUND, CLIENT_BUSY = "client-bound", 0.9
"""A turn's word for a load generator that may limit the rate, as its one thread takes more of a core."""
IDLE_SHARE = 0.05
"""A closed loop is void if users were without a request in flight for a larger share of the time."""
SLOWDOWN_SHARE = 0.1
"""Drop of the CPU's frequency above which there is a warning."""
GROWTH_BLOCKS, GROWTH_CERTAINTY = 15, 0.975
"""Parts of an open loop's windows (latencies of the last third are compared with the first third's), and the
certainty. In simulations at 70% load at most 4% of loads seem to grow, with 200 requests as with 3,000."""
MOMENT_S = 1e-6
"""Nominal length of a request that counts only at its end."""
BATCH_GAP_S = 0.02
"""Answers closer together come from one batch, or from batches that ended together."""
REQUEST, BATCH, NOTHING = "litmeter_request_seconds", "litmeter_batch_size", [0.0, 0.0]
"""Histograms of the server; sum and count of an empty one."""
CODES = {0: "no answer", 200: "a stream that says it failed, or has no piece"}
"""What a failed request got, where its status does not say it."""
STALLED = (
    "answers end 40 ms after their heads, as the server sends both apart and waits for an acknowledgement "
    "(Nagle's algorithm): it should set TCP_NODELAY, or write both at once"
)
ROLES = {"http": "http", "worker": "workers", "manager": "manager"}
"""Roles of the server's processes (HTTP, inference, and all others, of which LitServe's manager works), each
with the word of its columns."""


def machine_row(turn: Turn, number: int, at_s: float, seconds: float, usage: Usage) -> TurnRow:
    """The row of a turn with what the machine did meanwhile.

    Args:
        at_s, seconds: begin of the turn since the log's begin, and its duration.
    """
    return TurnRow(
        turn=number,
        at_s=round(at_s, 3),
        seconds=round(seconds, 3),
        round=turn.round,
        subject=configuration_of(turn.subject),
        work=turn.load.kind if isinstance(turn.load, Work) else "served",
        cpu_percent=rounded(usage.cpu_percent, 1),
        other_percent=rounded(usage.other_percent, 1),
        others={name: round(usage.others[name], 2) for name in busiest(usage.others)},
        steal_percent=rounded(usage.steal_percent, 1),
        cpu_mhz=rounded(usage.mhz, 0),
        gpu_percent=rounded(usage.gpu_percent, 1),
        gpu_memory_mib=rounded(usage.gpu_memory_mib, 0),
        gpu_power_w=rounded(usage.gpu_power_w, 0),
        warnings="; ".join(_machine_warnings(usage)),
    )


def served_row(
    row: TurnRow,
    turn: Turn,
    record: LoadRecord,
    usage: Usage,
    scrapes: tuple[Scrape, Scrape] | None = None,
    memory_bytes: int | None = None,
) -> TurnRow:
    """The ``machine_row`` of a turn with the figures of its requests.

    A rate counts good answers only; a request counts by the share of it that lies within the windows.
    Latencies are those of good requests that ended within the windows or, in an open loop, were due there.
    Counts are of the whole turn, warm-up and last requests included: ``sent = good + failed + timed_out``.

    Args:
        scrapes: the server's counters before and after the turn.
    """
    assert isinstance(turn.load, LoadPlan)
    rate, latency_ms = rate_of(record), latencies_ms(record)
    mean_ms = float(latency_ms.mean()) if len(latency_ms) else None
    answered = int((record.status == OK).sum())
    stalled = STALLED if 2 * record.stalled > answered else ""
    row = replace(
        row,
        warnings="; ".join(filter(None, [row.warnings, stalled])),
        users=record.users,
        offered_rps=rounded(record.rate_rps, 3),
        bound_rps=None if rate.rps else rounded(_highest_rps(record), 3),
        answers=len(latency_ms),
        sent=len(record.status),
        failed=int((record.status == FAILED).sum()),
        timed_out=int((record.status == TIMED_OUT).sum()),
        missed=None if turn.limits is None else rounded(late_share(record, turn.limits), 5),
        mean_ms=rounded(mean_ms, 2),
        p50_ms=rounded(percentile(latency_ms, 50), 2),
        p95_ms=rounded(percentile(latency_ms, 95), 2),
        p99_ms=rounded(percentile(latency_ms, 99), 2),
        server_cores=_over(usage.server_s, usage.seconds),
        client_cores=_over(usage.client_s, usage.seconds),
        client_cpu_ms=_over(usage.client_s, answered / 1000),
        client_wait_ms=_over(usage.client_waited_s, answered / 1000),
        late_ms=_lateness_ms(record),
        memory_mib=None if memory_bytes is None else round(memory_bytes / 2**20, 1),
        stream=stream_figures([stream_times_ms(record)]) | stream_rates(record),
        void="; ".join(_void_reasons(record, rate, mean_ms, settles=turn.load.max_windows > WINDOWS)),
    )
    if rate.rps:
        row = _with_rate(row, rate)
    return _with_server(row, *scrapes, usage, answered) if scrapes else row


def inprocess_row(
    row: TurnRow, load: Work, usage: Usage, blocks: Floats, cpu_ms: float, first_ms: float | None
) -> TurnRow:
    """The ``machine_row`` of a turn in-process with its figures, which are explained in ``subjects.Done``."""
    rate = throughput(blocks)
    waited_s = None if usage.process_waited_s is None else sum(usage.process_waited_s.values())
    row = replace(
        row,
        batch_size=load.batch_size,
        workers_cpu_ms=round(cpu_ms, 3),
        workers_wait_ms=_over(waited_s, usage.seconds * rate.rps / 1000),
        stream={} if first_ms is None else {"first_p50_ms": round(first_ms, 3)},
    )
    return _with_rate(row, rate)


def _with_rate(row: TurnRow, rate: Throughput) -> TurnRow:
    return replace(
        row, rate_rps=round(rate.rps, 3), low_rps=round(rate.low_rps, 3), high_rps=round(rate.high_rps, 3)
    )


def _with_server(row: TurnRow, before: Scrape, after: Scrape, usage: Usage, answered: int) -> TurnRow:
    """Add what the server counted, and its processes' times per answer."""

    def by_role(process_s: Mapping[int, float] | None, what: str) -> dict[str, Any]:
        # Processes without a role count as the manager's.
        seconds = dict.fromkeys(ROLES if process_s is not None else (), 0.0)
        for pid, spent in (process_s or {}).items():
            seconds[after.roles.get(pid, "manager")] += spent
        return {f"{ROLES[role]}_{what}_ms": _over(own, answered / 1000) for role, own in seconds.items()}

    stage_ms, batch_size = between(before, after, answered)
    return replace(
        row,
        **by_role(usage.process_s, "cpu"),
        **by_role(usage.process_waited_s, "wait"),
        batch_size=rounded(batch_size, 2),
        stage_ms={stage: round(ms, 3) for stage, ms in stage_ms.items()},
    )


def _over(seconds: float | None, divisor: float) -> float | None:
    return None if seconds is None or not divisor else round(seconds / divisor, 3)


def rate_of(record: LoadRecord) -> Throughput:
    """Good answers per second, with the interval of this turn's rate alone.

    If the first answers took so long that the record has a single window, see ``slow_rate``.
    """
    good = record.status == OK
    if len(record.window_edges) - 1 < WINDOWS:
        return slow_rate(np.sort(record.end[good]) - float(record.start.min()))
    opened, closed = record.window
    # In an open loop a queue may grow; time in the queue is no work done.
    start = record.start if record.rate_rps is None else record.end - MOMENT_S
    return throughput(block_rates(start[good], record.end[good], opened, closed))


def slow_rate(end: Floats) -> Throughput:
    """The rate of all answers, by their ``end`` times since the users began, ascending.

    In simulations with 1.5 to 3.5 answers of each of eight users the rate is 0 to 11% too low. Counting from
    the first batch of answers would make it up to 34% too high, as first batches of several workers end soon
    after each other; leaving out an answer per user, up to 53%.

    The interval treats batches as random arrivals: 0 to infinity without any.
    """
    if not len(end):
        return Throughput(0.0, 0.0, math.inf)
    batches = 1 + int((np.diff(end) > BATCH_GAP_S).sum())
    rps, factor = len(end) / float(end[-1]), math.exp(Z95 / math.sqrt(batches))
    return Throughput(rps, rps / factor, rps * factor)


def _highest_rps(record: LoadRecord) -> float | None:
    """Upper bound of an unmeasured rate: all good answers, and one more per user, over the turn's time."""
    if not len(record.end):
        return None
    good = int((record.status == OK).sum())
    return float((good + record.users) / (record.end.max() - record.start.min()))


def latencies_ms(record: LoadRecord) -> Floats:
    """Latencies of the good answers in the measured windows."""
    latencies: Floats = 1000 * (record.end - record.start)[(record.status == OK) & record.in_window]
    return latencies


StreamTimes = Mapping[str, Floats]
"""Milliseconds: "first", until a request's first piece; "piece", for each further piece of a request, or
token; "gap", between successive pieces. Empty if answers do not stream."""
PERCENTS = (50, 95, 99)
COMPARED: tuple[Literal["tokens", "bytes"], ...] = ("tokens", "bytes")
"""What rates of answers that stream are compared by, the first that all have."""


def stream_times_ms(record: LoadRecord) -> StreamTimes:
    """The times of good answers that stream, to requests sent in the measured windows; all were finished."""
    streams = record.streams
    if streams is None or not (streamed := streams.streamed(record.status == OK, record.body)).any():
        return {}
    opened, closed = record.window
    chosen = streamed & (record.sent >= opened) & (record.sent <= closed)
    piece_ms = 1000 * streams.piece_s[chosen]
    return {
        "first": 1000 * streams.first_s[chosen],
        "piece": piece_ms[np.isfinite(piece_ms)],
        "gap": 1000 * streams.gaps_s(chosen),
    }


def stream_figures(turns: Sequence[StreamTimes]) -> dict[str, float]:
    """Percentiles of all turns' times, as first_p95_ms, where enough requests support them."""
    found = {}
    for name in dict.fromkeys(name for turn in turns for name in turn):
        times_ms = joined(turn[name] for turn in turns if turn)
        for percent in PERCENTS:
            if (value := percentile(times_ms, percent)) is not None:
                found[f"{name}_p{percent}_ms"] = round(value, 3)
    return found


def stream_rates(record: LoadRecord) -> dict[str, float]:
    """What came in the measured windows a second, of good answers, as tokens_rps; empty without streams.

    A rate is there for each key of ``Streams.weights``. If there is but one window, it counts from the first
    request to the last good answer, as ``slow_rate`` does. If only a part of the good answers streams,
    ``share`` is that part, and there is no rate of tokens and bytes: what the others brought is not known.
    """
    streams, good = record.streams, record.status == OK
    if streams is None or not (streamed := streams.streamed(good, record.body)).any():
        return {}
    opened, closed = record.window
    if len(record.window_edges) - 1 < WINDOWS:
        opened, closed = float(record.start.min()), float(record.end[good].max())
    at = record.start[streams.request] + streams.at
    inside = (at > opened) & (at <= closed)
    share = float(streamed.sum() / good.sum())
    rates = {
        f"{name}_rps": round(float(own[inside].sum()) / (closed - opened), 3)
        for name, own in streams.weights(streamed).items()
        if share == 1 or name not in COMPARED
    }
    return rates if share == 1 else rates | {"share": round(share, 4)}


def _void_reasons(record: LoadRecord, rate: Throughput, mean_ms: float | None, *, settles: bool) -> list[str]:
    """Why a turn does not count; an open loop counts if the server kept up with the arrivals.

    If the turn ``settles``, windows were repeated until the last three agree.
    """
    reasons = []
    bad = int((record.status != OK).sum())
    if bad:
        timed_out = int((record.status == TIMED_OUT).sum())
        codes = Counter(int(code) for code in record.code[record.status == FAILED]).most_common()
        by_code = ", ".join(f"{CODES.get(code, f'status {code}')}: {count}" for code, count in codes)
        reason = f"{bad - timed_out} failed and {timed_out} timed out of {len(record.status)}"
        reasons.append(f"{reason} ({by_code})" if by_code else reason)
    if record.unsent:
        reasons.append(
            f"client-bound: {record.unsent} not sent, for want of descriptors (ulimit -Hn) or ports"
        )
    if mean_ms is None:
        return [*reasons, "no answer within the window"]
    if record.rate_rps is not None:
        if rate.high_rps < record.due_rps:
            reasons.append(f"overloaded: {rate.rps:.1f} of {record.due_rps:.1f} req/s were answered well")
    elif len(record.window_edges) > WINDOWS:
        reasons += _closed_loop_reasons(record, settles=settles)
    if record.cores > CLIENT_BUSY:
        reasons.append(f"{CLIENT_BOUND}: the load generator used {record.cores:.0%} of a core")
    return reasons


def _closed_loop_reasons(record: LoadRecord, *, settles: bool) -> list[str]:
    reasons = []
    if settles:
        good = record.status == OK
        edges = record.window_edges[-WINDOWS - 1 :]
        rates, latencies, answers = window_means(record.start[good], record.end[good], edges)
        if not steady(rates, latencies, answers):
            widest = max(spread(rates), spread(latencies))
            differ = f"differ by {widest:.0%} from their mean"
            finding = differ if widest < math.inf else "have one without an answer"
            reasons.append(f"unstable: the last {WINDOWS} windows {finding}")
    opened, closed = record.window
    busy_s = np.clip(np.minimum(record.end, closed) - np.maximum(record.start, opened), 0.0, None).sum()
    in_flight = busy_s / (closed - opened)
    if abs(in_flight / record.users - 1) > IDLE_SHARE:
        users = pluralise(record.users, "user")
        reasons.append(f"{in_flight:.2f} requests in flight on average, not those of {users}")
    return reasons


def latency_grows(record: LoadRecord) -> bool:
    """Whether latencies of an open loop grow, and more requests are in flight at its end than at its begin.

    The mean latency of the last third of the windows must exceed that of the first third by more than the
    means of their parts vary (Student's t). A server at its limit shows this long before it answers
    noticeably fewer requests than arrive.
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
    before, after = (((record.start <= time) & (record.end > time)).sum() for time in (opened, closed))
    return bool(beyond and after > before)


def _machine_warnings(usage: Usage) -> list[str]:
    warnings = []
    if usage.other_percent is not None and usage.other_percent > OTHER_LOAD_PERCENT:
        who = named_others(usage.others)
        warnings.append(f"other processes ({who}) used {usage.other_percent:.0f}% of the cores")
    if usage.steal_percent is not None and usage.steal_percent > OTHER_LOAD_PERCENT:
        warnings.append(f"the hypervisor took {usage.steal_percent:.0f}% of the cores")
    if usage.cores and usage.cores[0] != usage.cores[1]:
        warnings.append(f"the number of cores changed between {usage.cores[0]:g} and {usage.cores[1]:g}")
    if usage.mhz and usage.best_mhz and usage.mhz < (1 - SLOWDOWN_SHARE) * usage.best_mhz:
        warnings.append(f"the CPU ran at {usage.mhz:.0f} MHz of {usage.best_mhz:.0f} before")
    if usage.throttled_s:
        warnings.append(f"a CPU quota held processes back for {usage.throttled_s:.1f} s")
    return warnings


def _lateness_ms(record: LoadRecord) -> float | None:
    """99th percentile of the delay from due to sent, ms.

    In a closed loop a request is due when the same user's last request has been answered with 200.
    """
    opened, closed = record.window
    if record.rate_rps is not None:
        late_s = (record.sent - record.start)[(record.start > opened) & (record.start <= closed)]
    else:
        order = np.argsort(record.user, kind="stable")
        columns = (record.user, record.start, record.end, record.status)
        user, start, end, status = (column[order] for column in columns)
        good = (user[1:] == user[:-1]) & (status[:-1] == OK)
        late_s = (start[1:] - end[:-1])[good & (end[:-1] > opened) & (start[1:] <= closed)]
    return round(1000 * float(np.percentile(late_s, 99)), 2) if len(late_s) else None


def failed_rows(rows: Sequence[TurnRow]) -> int:
    """Number of requests of all turns that failed or timed out."""
    return sum(row.failed + row.timed_out for row in rows)


@dataclass(frozen=True)
class Scrape:
    """One reading of ``/metrics``, cumulative since the server's start.

    Attributes:
        stages, whole: sum of seconds and number of requests, by stage, and from arrival to answer.
        batched: number of requests in batches (0: not counted), and number of batches.
        roles: role of each process, by process id.
    """

    stages: Mapping[str, Sequence[float]] = field(default_factory=dict)
    whole: Sequence[float] = (0.0, 0.0)
    batched: Sequence[float] = (0.0, 0.0)
    roles: Mapping[int, str] = field(default_factory=dict)


def read_scrape(text: str) -> Scrape:
    """Parse ``/metrics`` (Prometheus' text format)."""
    totals: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    roles: dict[int, str] = {}
    for sample in (one for family in text_string_to_metric_families(text) for one in family.samples):
        name, _, figure = sample.name.rpartition("_")
        if sample.name == "litmeter_process" and sample.value:
            roles[int(sample.labels["pid"])] = sample.labels["role"]
        elif name in ("litmeter_stage_seconds", REQUEST, BATCH) and figure in ("sum", "count"):
            totals[sample.labels.get("stage", name)][("sum", "count").index(figure)] += sample.value
    whole, batched = totals.pop(REQUEST, NOTHING), totals.pop(BATCH, NOTHING)
    return Scrape(totals, whole, batched, roles)


def between(before: Scrape, after: Scrape, answered: int) -> tuple[dict[str, float], float | None]:
    """Mean ms of a request in each stage between two scrapes, and the mean batch size, None without a batch.

    A mean is the growth of a sum over the growth of its count. A stage counts in the window in which it
    ended. "transport" is the rest of a request's time: HTTP, JSON, communication between processes; left out
    if the stages' means exceed the whole, as with few requests. ``answered`` stands for requests in batches
    where these are not counted.
    """
    means = {name: _mean_ms(before.stages.get(name, NOTHING), own) for name, own in after.stages.items()}
    stage_ms = {name: mean_ms for name, mean_ms in means.items() if mean_ms is not None}
    transport_ms = (_mean_ms(before.whole, after.whole) or -math.inf) - sum(stage_ms.values())
    requests, batches = (new - old for old, new in zip(before.batched, after.batched, strict=True))
    stage_ms |= {"transport": transport_ms} if transport_ms >= 0 else {}
    return stage_ms, (requests or answered) / batches if batches else None


def _mean_ms(before: Sequence[float], after: Sequence[float]) -> float | None:
    seconds, requests = after[0] - before[0], after[1] - before[1]
    return 1000 * seconds / requests if requests > 0 else None
