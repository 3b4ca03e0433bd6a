"""What `litmeter verify` says of the waits in a queue, of load generators that measure well or badly."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import pytest

from litmeter.selftest import open_loop
from litmeter.selftest.checks import Check
from litmeter.selftest.open_loop import OpenCase, check_queueing, waits
from litmeter.stats.records import FAILED, OK, LoadRecord

Floats = npt.NDArray[np.float64]
CASE = OpenCase(service_s=0.02, parallel=1, rate_rps=35.0, seconds=8.0)
WARMUP_S = 0.3


def checked(
    monkeypatch: pytest.MonkeyPatch, measured: Callable[[Floats, Floats], Floats], *, failed: bool = False
) -> list[Check]:
    """The checks, where the load generator reports ``measured`` of due times and true latencies.

    Args:
        failed: every tenth request fails, after a minute.
    """

    @contextmanager
    def stub(service_s: float, parallel: int) -> Iterator[None]:
        assert (service_s, parallel) == (CASE.service_s, CASE.parallel)
        yield

    def load(stub: None, case: OpenCase) -> LoadRecord:
        rng = np.random.default_rng(5)
        due = np.cumsum(rng.exponential(1 / case.rate_rps, 400))
        end = due + measured(due, waits(due, case.service_s, case.parallel))
        status = np.full(len(due), OK)
        if failed:
            status[::10], end[::10] = FAILED, due[::10] + 60.0
        order = np.argsort(end)
        return LoadRecord(
            users=512,
            rate_rps=case.rate_rps,
            window_edges=np.linspace(WARMUP_S, WARMUP_S + case.seconds, 4),
            user=np.arange(len(due)),
            start=due[order],
            sent=due[order],
            end=end[order],
            status=status[order],
            code=np.full(len(due), 200),
            size=np.full(len(due), 80),
            body=np.zeros(len(due), dtype=np.int64),
            answer=np.full(len(due), b"{}"),
        )

    monkeypatch.setattr(open_loop, "running_stub", stub)
    monkeypatch.setattr(open_loop, "load", load)
    return check_queueing(CASE)


def test_true_latencies_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    p50, p95 = checked(monkeypatch, lambda due, true_s: true_s)
    assert (p50.name, p95.name) == ("20 ms x 1, 35/s: p50, queueing", "20 ms x 1, 35/s: p95, queueing")
    assert p50.error == p95.error == pytest.approx(0)
    assert p50.measured is not None
    assert p95.measured is not None
    assert 20 < p50.measured < p95.measured


def test_a_client_of_a_millisecond_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert all(check.passed for check in checked(monkeypatch, lambda due, true_s: true_s + 0.001))


def test_failed_requests_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    assert all(check.passed for check in checked(monkeypatch, lambda due, true_s: true_s, failed=True))


def test_latencies_without_the_time_in_the_queue_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a generator that counts from when it could send (coordinated omission)."""
    found = checked(monkeypatch, lambda due, true_s: np.full(len(due), CASE.service_s))
    assert [check.passed for check in found] == [False, False]


def test_a_tail_that_is_cut_off_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    p50, p95 = checked(monkeypatch, lambda due, true_s: np.minimum(true_s, np.percentile(true_s, 85)))
    assert p50.passed
    assert not p95.passed


def test_ten_percent_too_much_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not any(check.passed for check in checked(monkeypatch, lambda due, true_s: 1.1 * true_s))
