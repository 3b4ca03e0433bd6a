"""The search for a capacity, on queues of known capacity."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from litmeter.stats.capacity import (
    BLOCKS,
    CapacitySearch,
    Probe,
    design_effect,
    fit,
    logit,
)
from tests.support.queues import QUEUES, Queue, search, summary

PEAK_RPS = 100.0


def probe(load: float, share: float, requests: int = 1000, spread: float = 0.0) -> Probe:
    """A probe whose blocks alternate around ``share``."""
    blocks = tuple(share + (spread if number % 2 else -spread) for number in range(BLOCKS))
    return Probe(load * PEAK_RPS, PEAK_RPS, blocks, requests)


def logistic(load: float, at: float, slope: float = 15.0) -> float:
    return 1 / (1 + math.exp(-(logit(0.05) + slope * (math.log(load) - math.log(at)))))


@pytest.mark.parametrize("queue", QUEUES, ids=lambda queue: queue.name)
def test_simulated_searches_find_the_capacity(queue: Queue) -> None:
    found = summary(queue, [search(queue, seed) for seed in range(25)])
    assert found["within"] >= 0.88
    assert abs(found["bias"]) <= 0.015
    assert found["held"] >= 0.85


def test_the_fit_finds_where_a_logistic_curve_crosses_the_objective() -> None:
    loads = (0.7, 0.74, 0.76, 0.78, 0.82)
    curve = fit([probe(load, logistic(load, at=0.77), spread=0.002) for load in loads], miss=0.05)
    assert math.exp(curve.load) == pytest.approx(0.77, rel=0.005)
    share, low, high = curve.shares(np.log([0.7, 0.77, 0.82]))
    assert share == pytest.approx([logistic(load, at=0.77) for load in (0.7, 0.77, 0.82)], abs=0.01)
    assert (low < share).all()
    assert (share < high).all()


def test_requests_that_depend_on_each_other_widen_the_interval() -> None:
    loads = (0.7, 0.74, 0.76, 0.78, 0.82)
    shares = [logistic(load, at=0.77) for load in loads]
    calm = [probe(load, share, spread=0.0) for load, share in zip(loads, shares, strict=True)]
    bursts = [probe(load, share, spread=share * 0.9) for load, share in zip(loads, shares, strict=True)]
    assert design_effect(calm) == 1.0
    assert design_effect(bursts) > 3
    assert fit(bursts, 0.05).error > 1.5 * fit(calm, 0.05).error


def test_a_machine_that_changes_its_speed_changes_nothing() -> None:
    loads = (0.7, 0.74, 0.76, 0.78, 0.82)
    steady = [probe(load, logistic(load, at=0.77)) for load in loads]
    speeds = (1.0, 1.4, 1.0, 1.4, 1.0)
    changing = [
        Probe(one.rate_rps * speed, one.peak_rps * speed, one.missed, one.requests)
        for one, speed in zip(steady, speeds, strict=True)
    ]
    assert fit(changing, 0.05).load == pytest.approx(fit(steady, 0.05).load, abs=1e-9)


def test_unsteady_probes_count_where_most_are_such_and_resolve_nothing() -> None:
    loads = (0.7, 0.74, 0.76, 0.78, 0.82, 0.8, 0.72)
    steady = [probe(load, logistic(load, at=0.77)) for load in loads]
    slow = [replace(probe(load, logistic(load, at=0.7)), steady=False) for load in loads]

    own = CapacitySearch(0.05, 0.5, [*steady, *slow])
    curve = own.curve()
    assert curve is not None
    assert math.exp(curve.load) == pytest.approx(0.77, rel=0.005)
    assert own.resolved

    own = CapacitySearch(0.05, 0.5, [*steady[:5], *slow])
    curve = own.curve()
    assert curve is not None
    assert 0.7 < math.exp(curve.load) < 0.76
    assert not own.resolved


def test_where_steady_probes_lie_on_one_side_all_make_the_estimate() -> None:
    held = [probe(load, 0.0) for load in (0.7, 0.75, 0.8)]
    own = CapacitySearch(0.05, 0.5, [*held, replace(probe(0.85, 0.6), steady=False)])
    assert own.curve() is None
    assert own.next_load() == pytest.approx(0.8 * 1.08)
    curve = own.estimate()
    assert curve is not None
    assert 0.75 < math.exp(curve.load) < 0.86


def test_one_lucky_probe_decides_nothing() -> None:
    """At a load far above the capacity one probe of six holds the objective by chance."""
    loads = (0.7, 0.74, 0.76, 0.78, 0.82, 0.85)
    honest = [probe(load, logistic(load, at=0.77), spread=0.005) for load in loads]
    lucky = [*honest, probe(0.85, 0.04, spread=0.03)]
    assert fit(lucky, 0.05).load == pytest.approx(fit(honest, 0.05).load, abs=0.05)
