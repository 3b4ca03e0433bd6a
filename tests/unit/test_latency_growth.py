"""Open loops near a server's limit, simulated: what is said of them, and how often without reason."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from litmeter.benchmark.levels import level_row
from litmeter.benchmark.loadtest import GROWS, NO_OBJECTIVE, level_cells, load_row, objective_finding
from litmeter.benchmark.telemetry import Usage
from litmeter.benchmark.validity import latency_grows
from litmeter.loadgen import LoadPlan
from litmeter.stats.records import FAILED, LoadRecord
from tests.support.load import record

SERVICE_S = 0.01
WARMUP_S = 1.0
TRIALS = 200


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
@pytest.mark.parametrize("requests", [200, 662, 3000])
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
    growing = first_that(grows=True, load=0.98)
    assert verdict(growing, None) == f"valid; {NO_OBJECTIVE}; {GROWS}"
    assert verdict(growing, 10_000.0).endswith(f"req/s within 10000 ms; {GROWS}")
    assert load_row(growing).warnings == GROWS


def test_an_overloaded_server_is_called_that_and_no_more() -> None:
    overloaded = queue(1.3, 3000, np.random.default_rng(15))
    assert latency_grows(overloaded)
    assert "overloaded: " in verdict(overloaded, None)
    assert load_row(overloaded).warnings == ""


def test_at_103_percent_no_load_passes_without_a_word() -> None:
    rng = np.random.default_rng(15)
    for _ in range(20):
        row = load_row(queue(1.03, 3000, rng))
        assert not row.valid or row.warnings == GROWS


def test_a_closed_loop_needs_no_objective() -> None:
    closed = dataclasses.replace(queue(0.7, 662, np.random.default_rng(15)), rate_rps=None)
    assert objective_finding(closed, None) == ("", True)


def test_too_few_answers_say_nothing() -> None:
    few = queue(1.3, 30, np.random.default_rng(15))
    assert not latency_grows(few)
    failed = dataclasses.replace(few, status=np.full(len(few.start), FAILED))
    assert not latency_grows(failed)
