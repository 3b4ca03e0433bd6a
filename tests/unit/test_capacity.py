"""The search for a capacity, on queues of known capacity, and its estimator."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.special import expit, logit

from litmeter.errors import LoadError
from litmeter.load import Trace
from litmeter.measure.capacity import CapacityResult, capacity, probe_row
from litmeter.measure.figures import machine_row, served_row
from litmeter.measure.rows import TurnRow
from litmeter.measure.telemetry import Usage
from litmeter.measure.turn import Ready, Sample, Turn
from litmeter.stats.curve import Probes, fit, interval
from litmeter.stats.records import FAILED, Floats, Limits, LoadRecord
from tests.support.capacity import OBJECTIVE
from tests.support.load import plan, record
from tests.support.queues import QUEUES, Queue, drive, times_a_trace

RATES = np.array([70.0, 74.0, 76.0, 78.0, 82.0, 75.0, 79.0, 77.0])
SHARES = expit(logit(0.05) + 15 * np.log(RATES / 77.0))


def search(queue: Queue, seed: int = 1, trace: Trace | None = None, **changes: float) -> CapacityResult:
    changes = {"slo_ms": 1000 * queue.objective_s, "seed": seed, **changes}
    objective = OBJECTIVE.model_copy(update=changes)
    schedule = capacity(["queue"], objective, 10.0, queue.burstiness, trace)
    found, _ = drive(schedule, {"queue": queue}, seed)
    return found["queue"]


@pytest.mark.parametrize("queue", QUEUES, ids=lambda queue: queue.name)
def test_simulated_searches_find_the_capacity(queue: Queue) -> None:
    found = [search(queue, seed).metrics for seed in range(20)]
    ratios = np.array([(one.capacity_rps or 0.0) / queue.capacity_rps for one in found])
    assert abs(np.median(ratios) - 1) < 0.04
    assert np.abs(ratios - 1).max() < 0.15
    held = [(one.low_rps or 0.0) <= queue.capacity_rps <= (one.high_rps or 0.0) for one in found]
    assert np.mean(held) > 0.6
    assert {one.status for one in found} <= {"resolved", "unresolved"}
    assert all(one.seconds <= OBJECTIVE.max_s + 1 for one in found)


def test_no_capacity_lies_above_what_was_answered_however_wide_its_interval_is() -> None:
    for seed in range(20):
        found = search(QUEUES[0], seed, max_s=25.0).metrics
        assert (found.high_rps or 0.0) <= max(found.peak_rps, found.capacity_rps or 0.0)


def bursts(period_s: float, burst_s: float, pause_s: float, rng: np.random.Generator) -> Trace:
    """Random requests, 20 a second, and 80 a second in bursts."""
    begins = np.arange(0.0, period_s, burst_s + pause_s)
    burst = [rng.uniform(begin, begin + burst_s, int(60 * burst_s)) for begin in begins]
    due_s = np.sort(np.concatenate([rng.uniform(0.0, period_s, int(20 * period_s)), *burst]))
    return Trace(due_s - due_s[0])


@pytest.mark.parametrize(
    ("period_s", "burst_s", "pause_s"),
    [
        (60.0, 0.5, 4.5),  # bursts shorter than a probe
        (600.0, 20.0, 80.0),  # and longer
        (3.0, 0.5, 2.5),  # a trace that is shorter than a probe
        (900.0, 100.0, 800.0),  # and one burst in a long one
    ],
)
def test_searches_find_how_many_times_a_trace_a_queue_can_take(
    period_s: float, burst_s: float, pause_s: float
) -> None:
    trace = bursts(period_s, burst_s, pause_s, np.random.default_rng(7))
    queue = replace(QUEUES[3], slots=2)
    expected = times_a_trace(queue, trace)
    found = [search(queue, seed, trace, max_s=240.0).metrics for seed in range(6)]
    ratios = np.array([(one.capacity_rps or 0.0) / trace.rate_rps / expected for one in found])
    assert abs(np.median(ratios) - 1) < 0.1
    assert np.abs(ratios - 1).max() < 0.2
    held = [(one.low_rps or 0.0) <= expected * trace.rate_rps <= (one.high_rps or 0.0) for one in found]
    assert np.mean(held) > 0.6
    assert {one.status for one in found} <= {"resolved", "unresolved"}


def test_every_probe_counts() -> None:
    """Also those that a server could not keep up with, which are void as a load of its own."""
    found = search(QUEUES[0])
    probes = [row for row in found.rows if row.offered_rps is not None]
    assert found.metrics.probes == len(probes)
    assert any((row.high_rps or 0.0) < (row.offered_rps or 0.0) for row in probes)


@pytest.mark.parametrize(("slo_ms", "status"), [(4.0, "slo_unreachable"), (5000.0, "above_range")])
def test_an_objective_that_no_rate_decides_is_found_soon(slo_ms: float, status: str) -> None:
    found = search(QUEUES[0], slo_ms=slo_ms).metrics
    assert (found.status, found.capacity_rps) == (status, None)
    assert found.seconds < 30
    if status == "above_range":
        assert found.low_rps == pytest.approx(400, rel=0.02)  # two slots of 5 ms


def test_several_configurations_take_turns_and_have_a_capacity_each() -> None:
    queues = {"fast": QUEUES[1], "slow": replace(QUEUES[1], slots=1)}
    objective = OBJECTIVE.model_copy(update={"slo_ms": 15.0, "max_s": 60.0})
    found, samples = drive(capacity(list(queues), objective, 10.0), queues)
    names = [sample.turn.subject for sample in samples]
    assert names[:20] == ["fast", "slow"] * 10
    assert (
        1.5 < (found["fast"].metrics.capacity_rps or 0.0) / (found["slow"].metrics.capacity_rps or 1.0) < 3.5
    )
    assert all(50 < one.metrics.seconds < 61 for one in found.values())


def test_what_was_measured_repeats_a_searchs_decisions() -> None:
    found, samples = drive(capacity(["queue"], OBJECTIVE, 10.0), {"queue": QUEUES[3]})
    again, _ = drive(capacity(["queue"], OBJECTIVE, 10.0), {"queue": QUEUES[3]})
    other, others = drive(capacity(["queue"], OBJECTIVE, 10.0), {"queue": QUEUES[3]}, seed=2)
    assert again == found
    assert [one.turn for one in others] != [one.turn for one in samples]
    assert other != found


def test_a_server_that_refuses_everything_is_an_error() -> None:
    schedule = capacity(["server"], OBJECTIVE, 10.0)
    next(schedule)
    asked = schedule.send(Ready(("server",), 0.0))
    assert isinstance(asked, Turn)
    own = record([1.5, 2.5], [1.6, 2.6])
    own = replace(own, status=np.full(2, FAILED), code=np.full(2, 503))
    with pytest.raises(LoadError, match=r"server answered no request well: .*status 503: 2"):
        schedule.send(sample_of(own, asked))


@pytest.mark.parametrize(
    ("late_s", "missed", "void"),
    [
        (0.0, 0.1, False),  # served too slowly
        (0.08, 0.0, True),  # all misses are the load generator's
        (0.02, 0.1, False),  # its lateness changes nothing
    ],
)
def test_a_probe_is_void_only_where_its_verdict_is_the_load_generators(
    late_s: float, missed: float, void: bool
) -> None:
    start = np.linspace(1.01, 3.99, 100)
    took = np.full(100, 0.03)
    took[:10] = 0.2 if late_s < 0.05 else 0.03
    sent = start + np.where(np.arange(100) < 10, late_s, 0.0)
    own = record(start, sent + took, sent=sent, users=50, rate_rps=33.0)
    row = probe_row(sample_of(own), OBJECTIVE.model_copy(update={"slo_ms": 100.0}))
    assert row.missed == pytest.approx(missed, abs=1e-6)
    assert bool(row.void) is void


def test_the_fit_finds_where_a_logistic_curve_crosses_the_objective() -> None:
    curve = fit(probes(SHARES), miss=0.05)
    assert curve.capacity_rps == pytest.approx(77.0, rel=0.005)
    assert curve.shares(RATES) == pytest.approx(SHARES, abs=0.01)
    low, high = interval(probes(SHARES), miss=0.05)
    assert 0.95 * 77.0 < low < 77.0 < high < 1.05 * 77.0


def test_probes_that_differ_widen_the_interval() -> None:
    noisy = SHARES * np.array([3.0, 0.2, 1.0, 0.1, 1.5, 4.0, 0.3, 2.0])
    calm_low, calm_high = interval(probes(SHARES), miss=0.05)
    low, high = interval(probes(noisy), miss=0.05)
    assert math.log(high / low) > 3 * math.log(calm_high / calm_low)


def test_one_lucky_probe_decides_little() -> None:
    """A rate far above the capacity once keeps the objective by chance."""
    lucky = probes(np.append(SHARES, 0.04), np.append(RATES, 88.0))
    assert fit(lucky, miss=0.05).capacity_rps == pytest.approx(77.0, rel=0.08)


def probes(shares: Floats, rates: Floats = RATES) -> Probes:
    return Probes(rates, shares, 4 * rates)


def sample_of(own: LoadRecord, turn: Turn | None = None) -> Sample:
    turn = turn or Turn("server", plan(own.users), limits=Limits(100.0))
    row: TurnRow = served_row(machine_row(turn, 0, 0.0, 4.0, Usage()), turn, own, Usage())
    return Sample(turn, row, own)
