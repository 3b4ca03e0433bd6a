"""What `litmeter verify` says of load generators that measure well or badly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from litmeter.load.stub import Stub
from litmeter.selftest import CLOSED, QUEUE, Case, Check, Run, check, exponential_distance, waits
from litmeter.stats.records import FAILED
from tests.support.load import record

Floats = npt.NDArray[np.float64]
CASE = Case(Stub(0.02), seconds=8.0, quantities=QUEUE, rate_rps=35.0)


def checked(measured: Callable[[Floats, Floats], Floats], *, failed: bool = False) -> list[Check]:
    """The checks of a queue, where the load generator reports ``measured`` of due times and true latencies.

    Args:
        failed: every tenth request fails, after a minute.
    """
    due = np.cumsum(np.random.default_rng(5).exponential(1 / 35.0, 400))
    end = due + measured(due, waits(due, CASE.stub.service_s, CASE.stub.parallel))
    if failed:
        end[::10] = due[::10] + 60.0
    found = record(due, end, users=512, rate_rps=35.0, edges=np.linspace(0.3, 8.3, 4))
    if failed:
        found.status[::10] = FAILED
    order = np.argsort(end)
    found = replace(found, start=due[order], end=end[order], status=found.status[order])
    run = Run(CASE, found, np.empty((0, 2)))
    return [check(CASE, quantity, run) for quantity in QUEUE]


@pytest.mark.parametrize("failed", [False, True])
def test_true_latencies_pass_and_failed_requests_do_not_count(failed: bool) -> None:
    p50, p95 = checked(lambda due, true_s: true_s, failed=failed)
    assert p50.error == p95.error == pytest.approx(0)
    assert p50.passed
    assert p95.passed
    assert 20 < (p50.measured or 0.0) < (p95.measured or 0.0)


@pytest.mark.parametrize(
    ("measured", "passed"),
    [
        (lambda due, true_s: true_s + 0.001, [True, True]),
        (lambda due, true_s: 1.1 * true_s, [False, False]),
        # As of a generator that counts from when it could send (coordinated omission).
        (lambda due, true_s: np.full(len(due), CASE.stub.service_s), [False, False]),
        (lambda due, true_s: np.minimum(true_s, np.percentile(true_s, 85)), [True, False]),
    ],
    ids=["a client of a millisecond", "ten percent too much", "without the queue", "a tail that is cut off"],
)
def test_latencies_that_are_off_fail(
    measured: Callable[[Floats, Floats], Floats], passed: list[bool]
) -> None:
    assert [one.passed for one in checked(measured)] == passed


def against_log(log: Floats) -> list[bool]:
    """Whether a record of requests of 40 ms agrees with a server's log."""
    case = Case(Stub(0.02, 1), 2.0, CLOSED, users=2)
    start = np.arange(1.0, 4.0, 0.02)
    run = Run(case, record(start, start + 0.04, users=2), log)
    return [check(case, quantity, run).passed for quantity in CLOSED]


def test_a_log_that_differs_does_not_pass() -> None:
    start = np.arange(1.0, 4.0, 0.02)
    log = np.stack([start, start + 0.04], axis=1)
    assert against_log(log) == [True, True, True]
    assert against_log(np.stack([start, start + 0.036], axis=1)) == [True, False, False]
    assert against_log(log[1:]) == against_log(log[:0]) == [False, False, False]


def test_what_could_not_be_run_has_not_passed() -> None:
    assert not any(check(CASE, quantity, None).passed for quantity in (*CLOSED, *QUEUE))


def test_regular_arrivals_are_told_from_poisson() -> None:
    most = 1.63 / np.sqrt(400)
    assert exponential_distance(np.full(400, 0.01), 100.0) > most
    poisson = np.random.default_rng(0).exponential(0.01, 400)
    assert exponential_distance(poisson, 100.0) < most
    assert exponential_distance(poisson, 130.0) > most


def test_waits_in_a_queue_of_known_service_time() -> None:
    arrived = np.array([0.0, 0.1, 0.2, 5.0])
    assert waits(arrived, 1.0, 1) == pytest.approx([1.0, 1.9, 2.8, 1.0])
    assert waits(arrived, 1.0, 2) == pytest.approx([1.0, 1.0, 1.8, 1.0])
