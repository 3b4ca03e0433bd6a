"""The row of a turn: every request counted, its rate and latencies, and what is wrong with it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from litmeter.measure.figures import Scrape, latency_grows, machine_row, served_row, slow_rate
from litmeter.measure.rows import TurnRow
from litmeter.measure.telemetry import Usage
from litmeter.measure.turn import Turn, Work
from litmeter.stats.records import FAILED, OK, REQUEST_FIELDS, TIMED_OUT, WINDOWS, Floats, Limits, LoadRecord
from tests.support.load import plan, record
from tests.support.turns import Machine

IDLE = Usage(seconds=10.0, cpu_percent=50.0, server_s=9.0, client_s=1.0)
TURN = Turn("e1", plan(4), round=2)


def row_of(found: LoadRecord, usage: Usage = IDLE, turn: Turn = TURN, **more: object) -> TurnRow:
    return served_row(machine_row(turn, 7, 1.5, 10.0, usage), turn, found, usage, **more)  # type: ignore[arg-type]


def steady_record(users: int = 4, latency_s: float = 0.1, until_s: float = 60.0) -> LoadRecord:
    """``users`` users, each answered every ``latency_s``, one after another."""
    start = np.arange(round(users * until_s / latency_s)) * latency_s / users
    return record(start, start + latency_s, users=users, edges=np.linspace(10.01, 50.01, 4))


def with_status(found: LoadRecord, **positions: int) -> LoadRecord:
    status = found.status.copy()
    for position, value in positions.items():
        status[int(position[1:])] = value
    return replace(found, status=status)


def test_a_steady_turn() -> None:
    row = row_of(steady_record())
    assert (row.turn, row.at_s, row.seconds, row.round, row.subject) == (7, 1.5, 10.0, 2, "e1")
    assert (row.work, row.users, row.offered_rps) == ("served", 4, None)
    assert row.rate_rps == pytest.approx(40.0)
    assert row.low_rps == pytest.approx(40.0)
    assert row.high_rps == pytest.approx(40.0)
    assert row.bound_rps is None
    assert row.mean_ms == row.p50_ms == row.p95_ms == row.p99_ms == pytest.approx(100.0)
    assert (row.answers, row.sent) == (1600, 2400)
    assert (row.void, row.warnings, row.missed, row.gpu_percent) == ("", "", None, None)


@pytest.mark.parametrize(
    ("answers", "p95", "p99"), [(129, False, False), (130, True, False), (662, True, True)]
)
def test_a_percentile_needs_its_answers(answers: int, p95: bool, p99: bool) -> None:
    end = 1.0 + np.arange(1, answers + 1) * 3 / (answers + 1)
    row = row_of(record(end - 0.01, end))
    assert row.answers == answers
    assert [row.p50_ms is not None, row.p95_ms is not None, row.p99_ms is not None] == [True, p95, p99]


def test_every_request_is_counted_and_failures_void_the_turn() -> None:
    found = with_status(steady_record(), p0=FAILED, p900=FAILED, p901=TIMED_OUT)
    found.code[[0, 900, 901]] = 503, 0, 0
    row = row_of(found, turn=replace(TURN, limits=Limits(150.0)))
    assert (row.sent, row.failed, row.timed_out) == (len(found.start), 2, 1)
    assert row.void == f"2 failed and 1 timed out of {len(found.start)} (status 503: 1, no answer: 1)"
    assert row.answers == 1598
    assert row.missed == pytest.approx(2 / 1600, abs=1e-5)
    assert row_of(found, turn=replace(TURN, limits=Limits(50.0))).missed == 1.0


def test_failed_requests_add_no_rate() -> None:
    found = steady_record()
    failing = replace(found, status=np.where(np.arange(len(found.start)) % 2, FAILED, OK))
    assert row_of(failing).rate_rps == pytest.approx(20.0, rel=0.01)


def test_without_an_answer_the_rate_is_bounded_by_what_came_before() -> None:
    """Nine in the warm-up of a second, then a failure alone, for four seconds in all."""
    found = record([0.0, *[0.1] * 8, 1.0], [*[0.9] * 9, 4.0], edges=(1.0, 2.0, 3.0, 4.0))
    row = row_of(replace(found, status=np.array([*[OK] * 9, FAILED])))
    assert (row.rate_rps, row.low_rps, row.high_rps, row.p50_ms, row.answers) == (None, None, None, None, 0)
    assert row.bound_rps == row.highest_rps == 2.5 > 9 / 4
    assert "no answer within the window" in row.void


def test_a_turn_in_which_nothing_was_due_says_nothing() -> None:
    row = row_of(record([], [], users=64, rate_rps=0.1))
    assert (row.rate_rps, row.bound_rps, row.sent, row.late_ms) == (None, None, 0, None)
    assert "no answer within the window" in row.void


def test_a_busy_client_voids_the_turn() -> None:
    assert row_of(replace(steady_record(), cores=0.95)).void.startswith("client-bound: ")


def test_a_turn_that_drifts_is_void_where_it_was_to_settle() -> None:
    found = steady_record()
    # The second half is answered at half the rate: every other request is left out.
    kept = (found.start <= 30) | (np.arange(len(found.start)) % 2 == 0)
    drifting = replace(found, **{name: getattr(found, name)[kept] for name in REQUEST_FIELDS})
    settles = replace(TURN, load=plan(4, max_windows=WINDOWS + 1))
    assert "unstable: " in row_of(drifting, turn=settles).void
    row = row_of(drifting)
    assert "unstable" not in row.void
    assert row.low_rps is not None
    assert row.low_rps < row.highest_rps - 5  # its interval tells


def test_only_the_last_three_windows_are_reported() -> None:
    found = replace(steady_record(), window_edges=np.array([5.01, 10.01, 20.01, 30.01, 40.01]))
    assert row_of(found).answers == 1200


def test_idle_users_void_the_turn() -> None:
    row = row_of(replace(steady_record(), users=5))
    assert row.void.startswith("4.00 requests in flight")


def test_few_batches_of_different_length_are_no_idle_users() -> None:
    """Rate times mean latency is off by more than 5% in every third turn of so few answers."""
    rng = np.random.default_rng(5)
    for _ in range(100):
        end = np.cumsum(np.append(0.0, rng.lognormal(-1.6, 0.3, 20)))
        start, ended = (
            np.repeat(end[:-2], 4),
            np.repeat(end[2:], 4),
        )  # each waits for the batch before its own
        edges = end[2] + np.linspace(0.15, 1.15, 4)
        assert row_of(record(start, ended, users=8, edges=edges)).void == ""


def test_lateness_is_the_gap_after_an_answer_or_after_a_request_was_due() -> None:
    found = steady_record(latency_s=0.1)
    assert row_of(found).late_ms == pytest.approx(0.0, abs=1e-6)
    hurried = replace(found, end=found.end - 0.004)
    assert row_of(hurried).late_ms == pytest.approx(4.0)
    offered = replace(found, rate_rps=40.0, sent=found.start + 0.007)
    assert row_of(offered).late_ms == pytest.approx(7.0)


def test_other_load_is_a_warning_and_does_not_void_the_turn() -> None:
    usage = replace(
        IDLE,
        other_percent=14.0,
        steal_percent=12.0,
        throttled_s=0.5,
        cores=(1.0, 2.0),
        mhz=1800.0,
        best_mhz=3e3,
    )
    row = row_of(steady_record(), usage)
    assert row.void == ""
    for number in ("not visible", "14%", "12%", "1 and 2", "1800 MHz of 3000", "0.5 s"):
        assert number in row.warnings
    assert len(row.warnings.split("; ")) == 5
    calm = replace(usage, other_percent=9.0, steal_percent=2.0, throttled_s=0.0, cores=(2.0, 2.0), mhz=2900.0)
    assert row_of(steady_record(), calm).warnings == ""
    seen = row_of(steady_record(), replace(usage, others={"make": 0.2, "clamd": 0.6}))
    assert "(clamd, make)" in seen.warnings
    assert seen.others == {"make": 0.2, "clamd": 0.6}


NOTHING = Scrape(stages={}, whole=(0.0, 0.0), batched=(0.0, 0.0), roles={})


def test_cpu_stages_and_batches_of_the_server() -> None:
    """CPU time, and time in wait of it, is that of the whole turn, per answer of the whole turn."""
    found = with_status(steady_record(), p0=FAILED)
    answered = len(found.start) - 1
    process_s = {1: 0.002, 2: 0.02, 3: 0.06, 4: 0.04, 5: 0.001}
    usage = replace(
        IDLE,
        process_s={pid: answered * s for pid, s in process_s.items()},
        process_waited_s={2: answered * 0.004, 3: answered * 0.001, 4: answered * 0.002},
        client_s=answered * 0.003,
        client_waited_s=answered * 0.005,
    )
    after = Scrape(
        stages={"model": (20.0, 1000.0)},
        whole=(30.0, 1000.0),
        batched=(1000.0, 325.0),
        roles={2: "http", 3: "worker", 4: "worker"},
    )
    row = row_of(found, usage, scrapes=(NOTHING, after), memory_bytes=3 * 2**20)
    assert (row.http_cpu_ms, row.workers_cpu_ms, row.manager_cpu_ms, row.client_cpu_ms) == pytest.approx(
        (20.0, 100.0, 3.0, 3.0)
    )
    assert (row.http_wait_ms, row.workers_wait_ms, row.manager_wait_ms, row.client_wait_ms) == pytest.approx(
        (4.0, 3.0, 0.0, 5.0)
    )
    not_counted = row_of(found, replace(usage, process_waited_s=None), scrapes=(NOTHING, after))
    assert not_counted.workers_wait_ms is not_counted.http_wait_ms is None
    assert (row.server_cores, row.memory_mib) == (0.9, 3.0)
    assert row.stage_ms == {"model": 20.0, "transport": 10.0}
    assert row.batch_size == pytest.approx(3.08)
    unknown = row_of(found, replace(usage, server_s=None, client_s=None))
    assert (unknown.server_cores, unknown.client_cores, unknown.workers_cpu_ms) == (None, None, None)


def test_work_in_process_has_the_name_of_its_configuration() -> None:
    machine = Machine(lambda turn: 80.0)
    row = machine(Turn("e1 in-process", Work("preprocess", 4, 1.0)), 0).row  # type: ignore[union-attr]
    assert (row.subject, row.work, row.batch_size, row.users) == ("e1", "preprocess", 4, None)
    assert row.low_rps < row.rate_rps == 80.0 < row.high_rps


def slow_ends(
    rng: np.random.Generator, workers: int, batch: int, users: int = 8, until_s: float = 6.0
) -> Floats:
    """When the answers of a server end whose batches take a second: the first is of who came first alone.

    No request is sent after ``until_s``; all that were are answered.
    """
    waiting, free, ends = list(np.arange(users) * 1e-3), [0.0] * workers, list[float]()
    while waiting:
        free.sort()
        begin = max(free[0], min(waiting))
        taken = sorted(due for due in waiting if due <= begin)[:batch]
        waiting = sorted(due for due in waiting if due > begin or due not in taken)
        free[0] = end = begin + rng.lognormal(-0.02, 0.2)
        ends += [end] * len(taken)
        if end < until_s:
            waiting += [end + 1e-3 + 1e-6 * number for number in range(len(taken))]
    return np.sort(ends)


@pytest.mark.parametrize(("workers", "batch"), [(1, 4), (4, 1)])
def test_a_slow_rate_runs_from_the_begin_to_the_last_answer(workers: int, batch: int) -> None:
    """What the first and the last answers cost it is within 15%."""
    rng = np.random.default_rng(38)
    found = [slow_rate(slow_ends(rng, workers, batch)) for _ in range(300)]
    rates = [rate.rps for rate in found]
    assert 0.85 < np.mean(rates) / (workers * batch) < 1
    assert np.std(np.log(rates)) < 0.15
    assert np.mean([rate.low_rps <= workers * batch <= rate.high_rps for rate in found]) > 0.95
    assert slow_rate(np.array([])).rps == 0


def test_a_slow_turn_is_measured_over_its_only_window() -> None:
    end = np.repeat([2.0, 4.0, 6.0, 8.0], 4)
    found = record(np.maximum(end - 4.0, 0.0), end, users=8, edges=(0.0, 8.1))
    row = row_of(found)
    assert (row.rate_rps, row.answers, row.sent, row.void) == (2.0, 16, 16, "")
    none = row_of(with_status(record([0.0], [2.0], users=8, edges=(0.0, 2.0)), p0=FAILED))
    assert (none.rate_rps, none.high_rps, none.bound_rps) == (None, None, 4.0)


SERVICE_S = 0.01
WARMUP_S = 1.0
TRIALS = 100


def queue(load: float, requests: int, rng: np.random.Generator, *, random: bool = False) -> LoadRecord:
    """Requests at random times to a server that takes SERVICE_S for each, one after another.

    Args:
        load: the rate of arrivals over the highest that the server can do.
        requests: how many are due in the windows, on average.
        random: the server's times are exponential.
    """
    rate_rps = load / SERVICE_S
    seconds = requests / rate_rps
    due = np.cumsum(rng.exponential(1 / rate_rps, int(1.5 * rate_rps * (WARMUP_S + seconds)) + 50))
    due = due[due < WARMUP_S + seconds + 0.2]
    count = len(due)
    service_s = rng.exponential(SERVICE_S, count) if random else np.full(count, SERVICE_S)
    served = np.cumsum(service_s)
    end = served + np.maximum.accumulate(due - (served - service_s))
    edges = np.linspace(WARMUP_S, WARMUP_S + seconds, 4)
    return record(due, end, users=256, rate_rps=rate_rps, edges=edges)


def warned_share(load: float, requests: int, *, random: bool = False) -> float:
    rng = np.random.default_rng(15)
    found = [latency_grows(queue(load, requests, rng, random=random)) for _ in range(TRIALS)]
    return float(np.mean(found))


@pytest.mark.parametrize("random", [False, True])
@pytest.mark.parametrize("requests", [200, 3000])
def test_at_70_percent_load_hardly_any_seems_to_grow(requests: int, random: bool) -> None:
    assert warned_share(0.7, requests, random=random) <= 0.05


@pytest.mark.parametrize(
    ("load", "requests", "least"), [(0.98, 662, 0.25), (1.03, 662, 0.5), (1.03, 3000, 0.75)]
)
def test_growing_latencies_are_noticed(load: float, requests: int, least: float) -> None:
    """At 98% the queue grows towards a mean wait of 25 services: not all windows of a few seconds show it."""
    assert warned_share(load, requests) >= least


def test_an_overloaded_server_voids_the_turn() -> None:
    found = queue(1.3, 3000, np.random.default_rng(15))
    assert latency_grows(found)
    assert row_of(found).void.startswith("overloaded: ")
    assert row_of(queue(0.7, 3000, np.random.default_rng(15))).void == ""


def test_at_103_percent_no_load_passes_without_a_word() -> None:
    rng = np.random.default_rng(15)
    found = [queue(1.03, 3000, rng) for _ in range(20)]
    assert all(row_of(one).void or latency_grows(one) for one in found)


def test_too_few_answers_say_nothing() -> None:
    found = queue(1.3, 30, np.random.default_rng(15))
    assert not latency_grows(found)
    assert not latency_grows(replace(found, status=np.full(len(found.start), FAILED)))
