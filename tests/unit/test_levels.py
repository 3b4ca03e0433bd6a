"""One level: every request counted, its rate and latencies, and whether they are valid."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from litmeter.load import LoadPlan
from litmeter.measure.levels import latency_grows, level_row, raw_samples
from litmeter.measure.loadtest import GROWS, NO_OBJECTIVE, level_cells, load_row, objective_finding
from litmeter.measure.rows import pipeline_as_served
from litmeter.measure.telemetry import Usage
from litmeter.stats.records import FAILED, OK, REQUEST_FIELDS, TIMED_OUT, LoadRecord
from tests.support.load import record
from tests.support.synthetic_results import batch

BASELINE = [batch(1, 50.0, 40.0), batch(4, 90.0, 80.0), batch(8, 100.0, 95.0)]


@pytest.mark.parametrize(
    ("max_batch_size", "users", "size"),
    [(4, 8, 4), (256, 1, 1), (256, 8, 8), (2, 8, 1), (4096, 6, 4)],
)
def test_the_batch_size_is_one_that_can_be_formed(max_batch_size: int, users: int, size: int) -> None:
    assert pipeline_as_served(BASELINE, max_batch_size, users).batch_size == size


def test_the_fastest_of_those_that_can_be_formed_counts() -> None:
    slow_in_fours = [batch(1, 50.0, 40.0), batch(4, 50.0, 35.0)]
    assert pipeline_as_served(slow_in_fours, 4, 8).batch_size == 1


def test_without_a_small_batch_the_smallest_is_taken() -> None:
    assert pipeline_as_served(BASELINE[1:], 1, 1).batch_size == 4


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


def verdict(found: LoadRecord, slo_ms: float | None) -> str:
    """The last cell of the printed row."""
    finding, _ = objective_finding(found, slo_ms)
    plan = LoadPlan(256, 662, 1.0, 1.0, 10.0, 3, 30.0, 0, rate_rps=found.rate_rps)
    return level_cells(load_row(found), plan, finding)[-1]


def first_that(grows: bool, load: float) -> LoadRecord:
    rng = np.random.default_rng(15)
    records = (queue(load, 662, rng) for _ in range(TRIALS))
    valid = (one for one in records if level_row(one, Usage(client_cores=0.1)).valid)
    return next(one for one in valid if latency_grows(one) is grows)


@pytest.mark.parametrize("load", [0.7, 0.98])
def test_without_an_objective_an_open_loop_is_not_just_valid(load: float) -> None:
    assert verdict(first_that(grows=False, load=load), None) == f"valid; {NO_OBJECTIVE}"


def test_a_load_that_passes_for_valid_while_latency_grows_says_so() -> None:
    found = first_that(grows=True, load=0.98)
    assert verdict(found, None) == f"valid; {NO_OBJECTIVE}; {GROWS}"
    assert verdict(found, 10_000.0).endswith(f"req/s within 10000 ms; {GROWS}")
    assert load_row(found).warnings == GROWS


def test_an_overloaded_server_is_called_that_and_no_more() -> None:
    found = queue(1.3, 3000, np.random.default_rng(15))
    assert latency_grows(found)
    assert "overloaded: " in verdict(found, None)
    assert load_row(found).warnings == ""


def test_at_103_percent_no_load_passes_without_a_word() -> None:
    rng = np.random.default_rng(15)
    for _ in range(20):
        row = load_row(queue(1.03, 3000, rng))
        assert not row.valid or row.warnings == GROWS


def test_a_closed_loop_needs_no_objective() -> None:
    found = dataclasses.replace(queue(0.7, 662, np.random.default_rng(15)), rate_rps=None)
    assert objective_finding(found, None) == ("", True)


def test_too_few_answers_say_nothing() -> None:
    found = queue(1.3, 30, np.random.default_rng(15))
    assert not latency_grows(found)
    failed = dataclasses.replace(found, status=np.full(len(found.start), FAILED))
    assert not latency_grows(failed)


IDLE = Usage(cpu_percent=50.0, server_cores=0.9, client_cores=0.1)


def steady_record(users: int = 4, latency_s: float = 0.1, until_s: float = 60.0) -> LoadRecord:
    """``users`` users, each answered every ``latency_s``, one after another."""
    start = np.arange(round(users * until_s / latency_s)) * latency_s / users
    return record(start, start + latency_s, users=users, edges=np.linspace(10.01, 50.01, 4))


def with_status(found: LoadRecord, **positions: int) -> LoadRecord:
    status = found.status.copy()
    for position, value in positions.items():
        status[int(position[1:])] = value
    return dataclasses.replace(found, status=status)


def test_a_steady_level_is_valid() -> None:
    row = level_row(steady_record(), IDLE)
    assert row.throughput_rps == pytest.approx(40.0)
    assert row.p50_ms == row.p95_ms == row.p99_ms == pytest.approx(100.0)
    assert row.samples == 1600
    assert row.valid
    assert row.invalid_reason == ""
    assert row.gpu_percent is None


def test_an_open_loops_percentiles_claim_no_interval() -> None:
    row = level_row(dataclasses.replace(steady_record(), rate_rps=40.0), IDLE)
    assert (row.p95_ms is None, row.p95_low_ms, row.p95_high_ms) == (False, None, None)
    assert level_row(steady_record(), IDLE).p95_low_ms is not None


def test_every_request_is_counted_and_failures_invalidate_the_level() -> None:
    found = with_status(steady_record(), p0=FAILED, p900=FAILED, p901=TIMED_OUT)
    found.code[[0, 900, 901]] = 503, 0, 0
    row = level_row(found, IDLE)
    assert row.sent == row.ok + row.failed + row.timed_out == len(found.start)
    assert (row.failed, row.timed_out) == (2, 1)
    assert not row.valid
    assert (
        row.invalid_reason == f"2 failed and 1 timed out of {len(found.start)} (status 503: 1, no answer: 1)"
    )


def test_failed_requests_add_no_throughput() -> None:
    found = steady_record()
    failing = dataclasses.replace(found, status=np.where(np.arange(len(found.start)) % 2, FAILED, OK))
    assert level_row(failing, IDLE).throughput_rps == pytest.approx(20.0, rel=0.01)


def test_a_level_without_an_answer_has_no_latency() -> None:
    found = steady_record()
    dead = dataclasses.replace(found, status=np.full(len(found.start), TIMED_OUT))
    row = level_row(dead, IDLE)
    assert row.throughput_rps == 0.0
    assert row.p50_ms is None
    assert "no answer within the window" in row.invalid_reason


def test_a_busy_client_invalidates_the_level() -> None:
    row = level_row(steady_record(), dataclasses.replace(IDLE, client_cores=0.95))
    assert not row.valid
    assert row.invalid_reason == "client-bound: its CPU was 95% of a core"


def test_a_rate_near_the_clients_limit_is_invalid() -> None:
    row = level_row(steady_record(), IDLE, client_limit_rps=45.0)
    assert row.invalid_reason == "client-bound: 89% of what the client can send"
    assert level_row(steady_record(), IDLE, client_limit_rps=60.0).valid


def test_a_level_that_drifts_is_unstable() -> None:
    found = steady_record()
    # The second half is answered at half the rate: every other request is left out.
    late = found.start > 30
    kept = ~late | (np.arange(len(found.start)) % 2 == 0)
    drifting = {name: getattr(found, name)[kept] for name in REQUEST_FIELDS}
    row = level_row(dataclasses.replace(found, **drifting), IDLE)
    assert not row.valid
    assert "unstable: the last 3 windows differ by" in row.invalid_reason
    assert "Little's law" in row.invalid_reason


def test_only_the_last_three_windows_are_reported() -> None:
    found = dataclasses.replace(steady_record(), window_edges=np.array([5.01, 10.01, 20.01, 30.01, 40.01]))
    row = level_row(found, IDLE)
    assert found.window == (10.01, 40.01)
    assert (row.windows, row.window_s, row.samples) == (4, 30.0, 1200)


def test_littles_law_finds_missing_users() -> None:
    row = level_row(dataclasses.replace(steady_record(), users=5), IDLE)
    assert row.invalid_reason == "Little's law: rate x latency is 4.00, not 5 users"


def test_the_clients_lateness_is_the_gap_after_an_answer() -> None:
    found = steady_record(latency_s=0.1)
    assert level_row(found, IDLE).client_late_ms == pytest.approx(0.0, abs=1e-6)
    hurried = dataclasses.replace(found, end=found.end - 0.004)
    assert level_row(hurried, IDLE).client_late_ms == pytest.approx(4.0)


def test_other_load_is_a_warning_and_leaves_the_level_valid() -> None:
    usage = dataclasses.replace(
        IDLE,
        other_percent=14.0,
        steal_percent=2.0,
        throttled_s=0.5,
        cores=(1.0, 2.0),
        mhz=1800.0,
        best_mhz=3000.0,
    )
    row = level_row(steady_record(), usage)
    assert row.valid
    assert row.warnings.split("; ") == [
        "other processes used 14% of the machine",
        "the number of cores changed between 1 and 2",
        "the CPU ran at 1800 MHz of 3000 before",
        "a CPU quota held processes back for 0.5 s",
    ]


def test_cpu_time_per_request_is_told_by_process() -> None:
    usage = dataclasses.replace(IDLE, process_cores={1: 0.02, 2: 0.2, 3: 0.6, 4: 0.4, 5: 0.1})
    row = level_row(steady_record(), usage, roles={2: "http", 3: "worker", 4: "worker"})
    assert row.http_cpu_ms == pytest.approx(5.0)
    assert row.workers_cpu_ms == pytest.approx(25.0)
    assert row.manager_cpu_ms == pytest.approx(3.0)
    assert row.client_cpu_ms == pytest.approx(2.5)


def test_raw_samples_keep_every_request() -> None:
    found = with_status(steady_record(), p3=TIMED_OUT)
    samples = raw_samples(found, "levels")
    assert len(samples) == len(found.start)
    assert samples[3]["status"] == "timed out"
    assert sum(sample["measured"] for sample in samples) == 1600
    assert samples[0]["start_s"] == pytest.approx(-10.01)
