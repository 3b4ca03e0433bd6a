"""What limits a configuration: a synthetic one for each cause."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from litmeter.measure.rows import RoundRow
from litmeter.params import ServeSettings
from litmeter.report.bounds import bounds_of
from litmeter.report.diagnosis import Diagnosis, diagnose
from litmeter.report.results import Result
from tests.support.synthetic_results import CEILINGS, STAGES, at_best, batch, level, result

BATCHING = ServeSettings(max_batch_size=64, batch_timeout_s=0.05)
FOUR_WORKERS = ServeSettings(max_batch_size=64, batch_timeout_s=0.01, workers_per_device=4)


def limit(own: Result, **ceilings: Any) -> Diagnosis:
    known = CEILINGS | ceilings
    return diagnose(own, bounds_of(own, known), known)


def test_without_a_loss_beyond_the_intervals_nothing_is_resolved() -> None:
    found = limit(at_best(level(4, 99.0)), roofline_full_rps=101.0)
    assert found.cause == "not resolved"
    assert found.text.startswith("Not resolved: ")


HALF_IDLE = {"cpu_percent": 55.0}
WAITS = STAGES | {"queue": 48.0}
SLOW_MODEL = STAGES | {"model": 300.0}

CAUSES: dict[str, tuple[Result, str | None, str]] = {
    "hardware": (at_best(level(4, 99.0)), "precision", "100.0 0.91 110.0 1"),
    "kernels": (at_best(level(4, 99.0)), "compiled", "0.25 400.0 1 800.0"),
    "preprocessing": (
        at_best(level(4, 49.0), baseline=[batch(1, 100.0, 50.0)]),
        "preprocess",
        "50.0 0.50 100.0 10.0 95",
    ),
    "transport": (
        at_best(level(4, 66.0), null_cpu_ms=9.0, null_client_cpu_ms=1.0),
        "transport",
        "69.0 0.69 100.0 9.0 1.0 29.0",
    ),
    "batch window": (
        at_best(level(1, 16.0, **HALF_IDLE), serve=BATCHING, stages={1: WAITS}),
        "batch_timeout_s",
        "62 48 1.0 55",
    ),
    "too many workers": (
        at_best(
            level(1, 50.0),
            level(4, 10.0),
            serve=FOUR_WORKERS,
            stages={1: STAGES, 4: SLOW_MODEL},
            baseline=[batch(1, 100.0, 100.0), batch(4, 90.0, 80.0)],
        ),
        "workers_per_device",
        "4 10.0 95 300 30.0 10 2",
    ),
    "too few workers": (
        at_best(level(4, 60.0, **HALF_IDLE), stages={4: STAGES | {"queue": 45.0}}, cores=8),
        "workers_per_device",
        "67 45 1 55",
    ),
    "small batches": (
        at_best(level(4, 39.0), baseline=[batch(1, 100.0, 40.0), batch(8, 100.0, 99.0)]),
        "max_batch_size",
        "1.0 40.0 99.0 8",
    ),
    "large batches": (
        at_best(
            level(8, 62.0, batch_size=7.0),
            baseline=[batch(1, 100.0, 99.0), batch(4, 70.0, 69.0), batch(8, 60.0, 59.0)],
            serve=BATCHING,
        ),
        "max_batch_size",
        "7.0 61.5 99.0 1",
    ),
    "drift": (
        at_best(
            level(4, 70.0),
            baseline=[batch(1, 100.0, 99.0, pipeline_slowest_rps=75.0, pipeline_fastest_rps=123.0)],
        ),
        None,
        "75.0 123.0",
    ),
    "HTTP process": (at_best(level(4, 60.0, http_cpu_ms=16.0)), "transport", "16.0 0.96"),
    "manager process": (at_best(level(4, 60.0, manager_cpu_ms=16.0)), "transport", "16.0 0.96"),
    "load generator": (at_best(level(4, 60.0, client_limit_share=0.85)), None, "85"),
    "other load": (at_best(level(4, 60.0, other_percent=30.0)), None, "30"),
    "unexplained": (at_best(level(4, 60.0)), None, "10 95"),
}


@pytest.mark.parametrize("cause", CAUSES)
def test_each_cause_is_named_with_its_figures(cause: str) -> None:
    own, parameter, figures = CAUSES[cause]
    wide = {"roofline_full_rps": 400.0, "roofline_half_rps": 800.0} if cause == "kernels" else {}
    found = limit(own, **wide)
    assert (found.cause, found.parameter) == (cause, parameter)
    assert set(figures.split()) <= set(re.findall(r"\d+(?:\.\d+)?", found.text))
    assert cause.lower() in found.text.lower()
    if parameter:
        assert f"`{parameter}`" in found.text


def test_a_level_slower_when_measured_again_shows_drift() -> None:
    found = limit(at_best(level(4, 60.0, first_rps=90.0)))
    assert found.cause == "drift"
    assert {"90.0", "60.0"} <= set(re.findall(r"\d+\.\d+", found.text))
    assert limit(at_best(level(4, 60.0, first_rps=70.0))).cause == "unexplained"


def test_settings_already_in_use_are_not_advised() -> None:
    tuned = ServeSettings(precision="half", transport="direct", compiled=True, preprocess="torchvision")
    decoding = at_best(level(4, 49.0), baseline=[batch(1, 100.0, 50.0)], serve=tuned)
    way = at_best(level(4, 66.0), serve=tuned, null_cpu_ms=9.0, null_client_cpu_ms=1.0)
    http = at_best(level(4, 60.0, http_cpu_ms=16.0), serve=tuned)
    kernels = at_best(level(4, 99.0), serve=tuned)
    for own, cause in [
        (decoding, "preprocessing"),
        (way, "transport"),
        (http, "HTTP process"),
        (kernels, "kernels"),
    ]:
        found = limit(own, roofline_half_rps=400.0 if own is kernels else 110.0)
        assert (found.cause, found.parameter) == (cause, None)
        assert "no key of `serve:` moves it" in found.text


def test_half_a_window_of_waiting_is_a_batch_window() -> None:
    own = at_best(level(1, 20.0, cpu_percent=60.0), serve=BATCHING, stages={1: STAGES | {"queue": 25.0}})
    assert limit(own).cause == "batch window"
    full = at_best(level(1, 20.0, cpu_percent=95.0), serve=BATCHING, stages={1: STAGES | {"queue": 25.0}})
    assert limit(full).cause == "unexplained"


def test_a_window_that_explains_half_of_the_loss_is_named() -> None:
    """A third of the latency it is not: 9 of 33 ms."""
    stages = {1: STAGES | {"queue": 9.0, "batch_wait": 0.1}}
    serve = BATCHING.model_copy(update={"batch_timeout_s": 0.01})
    half = [batch(1, 50.0, 48.0, pipeline_cpu_ms=20.0)]
    lost = at_best(level(1, 30.0, **HALF_IDLE), serve=serve, stages=stages, baseline=half)
    assert limit(lost, roofline_full_rps=52.0).cause == "batch window"
    more = at_best(level(1, 30.0, **HALF_IDLE), serve=serve, stages=stages)
    assert limit(more).cause == "unexplained"


def test_a_memory_bound_model_in_half_has_no_advice() -> None:
    half = ServeSettings(precision="half")
    found = limit(at_best(level(4, 99.0), serve=half), roofline_half_rps=120.0)
    assert (found.cause, found.parameter) == ("hardware", None)
    assert "memory-bound" in found.text


def test_a_compiled_model_in_half_may_be_quantised() -> None:
    half = ServeSettings(precision="half", compiled=True, preprocess="torchvision")
    found = limit(at_best(level(4, 99.0), serve=half), roofline_half_rps=120.0, roofline_int8_rps=400.0)
    assert (found.cause, found.parameter) == ("hardware", "precision")


def test_a_share_of_the_roofline_near_the_threshold_is_not_resolved() -> None:
    found = limit(at_best(level(4, 99.0)), roofline_full_rps=100.0 / 0.7, roofline_half_rps=130.0)
    assert (found.cause, found.parameter) == ("hardware or kernels", "compiled")


def test_a_null_model_that_waits_shows_a_batch_window() -> None:
    slow = {"null_rps": 40.0, "null_low_rps": 39.0, "null_high_rps": 41.0}
    found = limit(at_best(level(4, 39.0), serve=BATCHING, **slow))
    assert (found.cause, found.parameter) == ("batch window", "batch_timeout_s")
    busy = limit(at_best(level(4, 39.0), serve=BATCHING, **slow, null_cpu_ms=24.0))
    assert (busy.cause, busy.parameter) == ("transport", "transport")


def test_preprocessing_on_idle_cores_calls_for_workers() -> None:
    baseline = [batch(1, 100.0, 50.0, pipeline_cpu_ms=20.0)]
    found = limit(at_best(level(4, 49.0), baseline=baseline))
    assert (found.cause, found.parameter) == ("preprocessing", "workers_per_device")
    assert "with fewer threads than 2 in each" in found.text
    two = ServeSettings(workers_per_device=2)
    both_busy = [replace(baseline[0], workers=2)]
    single = limit(at_best(level(4, 49.0), baseline=both_busy, serve=two, threads_per_worker=1, cores=3))
    assert single.parameter == "workers_per_device"
    assert "fewer threads" not in single.text
    a_core_each = limit(at_best(level(4, 49.0), baseline=both_busy, serve=two, threads_per_worker=1))
    assert a_core_each.parameter == "preprocess"


def test_other_load_is_said_where_it_is_not_the_cause_too() -> None:
    """It may have slowed down the same work in-process as well."""
    baseline = [batch(1, 100.0, 50.0)]
    found = limit(at_best(level(4, 49.0, other_percent=47.0), baseline=baseline))
    assert found.cause == "preprocessing"
    assert "47%" in found.text
    assert "17%" in limit(at_best(level(4, 99.0, steal_percent=17.0))).text
    stolen = limit(at_best(level(4, 60.0, steal_percent=20.0)))
    assert (stolen.cause, "20%" in stolen.text) == ("other load", True)
    assert limit(at_best(level(4, 60.0, other_percent=47.0))).text.count("47%") == 1


def test_failed_requests_at_every_level_are_the_cause() -> None:
    found = limit(result("e1", [level(4, 60.0, invalid_reason="3 failed")]))
    assert found.cause == "failed requests"
    assert "4 users: 3 failed" in found.text


def test_a_larger_loss_above_the_model_comes_first() -> None:
    own = at_best(level(4, 60.0, other_percent=30.0))
    found = limit(own, roofline_full_rps=400.0, roofline_half_rps=300.0)
    assert (found.cause, found.parameter) == ("kernels, then other load", "compiled")
    assert found.share == pytest.approx(0.25)
    smaller = limit(own, roofline_full_rps=140.0, roofline_half_rps=130.0)
    assert smaller.cause == "other load"


def test_a_larger_loss_that_may_be_none_is_said() -> None:
    baseline = [batch(1, 100.0, 80.0)]
    wide = level(4, 45.0, low_rps=20.0, high_rps=95.0)
    found = limit(at_best(wide, baseline=baseline))
    assert found.cause == "preprocessing"
    assert re.search(r"not resolved.* 0\.\d\d \(0\.\d\d to 1\.\d\d\)", found.text)
    unknown = [replace(batch(1, 100.0, 80.0), pipeline_low_rps=0.0)]
    found = limit(at_best(wide, baseline=unknown))
    assert re.search(r"not resolved.* 0\.\d\d \(0\.\d\d or more\)", found.text)
    narrow = level(4, 75.0, low_rps=60.0, high_rps=95.0)
    assert "not resolved" not in limit(at_best(narrow, baseline=baseline)).text


def test_losses_that_cannot_be_told_apart_are_a_tie() -> None:
    both = at_best(level(4, 40.0), baseline=[batch(1, 100.0, 63.0)])
    found = limit(both)
    assert found.cause == "preprocessing or unexplained"
    behind = limit(both, roofline_full_rps=900.0, roofline_half_rps=800.0)
    assert behind.cause == "kernels, then preprocessing or unexplained"
    with_kernels = limit(both, roofline_full_rps=160.0, roofline_half_rps=150.0)
    assert with_kernels.cause == "kernels or preprocessing or unexplained"
    assert " or " not in limit(at_best(level(4, 20.0), baseline=[batch(1, 100.0, 63.0)])).cause


def test_a_cause_of_two_losses_is_named_once() -> None:
    """The batch window slows down the server of a model that does nothing, too."""
    waits = {1: STAGES | {"queue": 18.0}}
    null = {"null_rps": 60.0, "null_low_rps": 50.0, "null_high_rps": 70.0}
    served = level(1, 36.0, low_rps=30.0, high_rps=42.0, **HALF_IDLE)
    own = at_best(served, serve=BATCHING, stages=waits, **null)
    found = limit(own)
    assert found.cause == "batch window"


def test_a_loss_within_rounds_counts_though_the_rates_themselves_overlap() -> None:
    """A machine that changes its speed widens the intervals of both rates, but not that of their ratio."""
    model = {"model_low_rps": 80.0, "model_high_rps": 120.0}
    wide = batch(1, 100.0, 90.0, pipeline_low_rps=72.0, pipeline_high_rps=108.0, **model)
    speeds = (0.8, 1.2, 0.9, 1.1, 1.0, 1.0)
    paired = [
        RoundRow(number, work, 1, rate * speed * wobble)
        for work, rate, odd in (("model", 100.0, 1.0), ("pipeline", 90.0, 1.01))
        for number, (speed, wobble) in enumerate(zip(speeds, (1.0, odd) * 3, strict=True))
    ]
    own = at_best(level(4, 89.0), baseline=[wide], rounds=paired)
    assert limit(replace(own, rounds=[])).cause == "not resolved"
    found = limit(own)
    assert found.cause == "preprocessing"
    assert "0.90 of its own 100.0" in found.text
