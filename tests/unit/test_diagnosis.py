"""What limits a configuration: a synthetic one for each cause."""

from __future__ import annotations

import re
from dataclasses import replace
from statistics import geometric_mean
from typing import Any

import pytest

from litmeter.classifier.model.rows import TEST, PackageRow, PrecisionRow
from litmeter.kinds.classifier import Classifier
from litmeter.kinds.configuration import Configuration
from litmeter.kinds.lit_api import LitApi
from litmeter.report.diagnosis import Diagnosis, Timed, bounds_of, diagnose
from litmeter.report.losses import Why, losses_of
from litmeter.report.results import Result
from litmeter.stats.agreement import Agreement
from tests.support.synthetic_results import CEILINGS, MACHINE, SPEEDS, STAGES, result, turn

BATCHING = Classifier(max_batch_size=64, batch_timeout_s=0.05)
FOUR_WORKERS = Classifier(max_batch_size=64, batch_timeout_s=0.01, workers_per_device=4)
BUSY: dict[str, Any] = {"workers_cpu_ms": 19.0}
"""As in-process: at 60 of its 100 req/s a request costs 13.3 ms more of the two cores, in other parts."""
DECODES: dict[str, Any] = {"workers_cpu_ms": 39.0}
"""As in-process, where decoding and preprocessing takes as long as the model."""
EIGHT = MACHINE | {"cores": 8}


def limit(own: Result, timed: Timed | None = None, **ceilings: Any) -> Diagnosis:
    known = CEILINGS | ceilings
    return diagnose(own, bounds_of(own, known), known, timed)


def stages(**times: float) -> dict[str, Any]:
    return {"stage_ms": STAGES | times}


CAUSES: dict[str, tuple[Result, str | None, str]] = {
    "preprocessing": (result("e1", 49.0, 100.0, 50.0, **DECODES), "precision", "49.0 100"),
    "contention": (result("e1", workers_cpu_ms=31.0), "threads_per_worker", "31.0 19.3 86"),
    "transport": (result("e1", **BUSY, http_cpu_ms=12.5), "transport", "12.5 0.5 96"),
    "load generator": (result("e1", **BUSY, client_cpu_ms=12.0), "precision", "12.0 88"),
    "other processes": (result("e1", **BUSY, other_percent=36.0, workers_wait_ms=12.0), "precision", "90 36"),
    "hypervisor": (result("e1", **BUSY, steal_percent=36.0), "precision", "90"),
    "small batches": (
        result(
            "e1",
            more=[turn("e1", "pipeline", 60.0, workers_cpu_ms=31.0)],
            in_process={"batch_size": 4.0},
            workers_cpu_ms=31.0,
        ),
        "max_batch_size",
        "1.0 31.0 19.3 4",
    ),
    "large batches": (
        result(
            "e1",
            serve=BATCHING,
            more=[turn("e1", "pipeline", 60.0, batch_size=8.0, workers_cpu_ms=31.0)],
            workers_cpu_ms=31.0,
            batch_size=8.0,
        ),
        "max_batch_size",
        "8.0 31.0 19.3 64",
    ),
    "too many workers": (
        result(
            "e1",
            serve=FOUR_WORKERS,
            more=[turn("e1", "crowded", 60.0, high_rps=65.0)],
            workers_cpu_ms=31.0,
        ),
        "workers_per_device",
        "60.0 100 4 2",
    ),
    "batch window": (
        result("e1", serve=BATCHING, **BUSY, **stages(queue=48.0, model=70.0)),
        "batch_timeout_s",
        "133 48 0.05",
    ),
    "too few workers": (
        result("e1", machine=EIGHT, **BUSY, **stages(queue=100.0, model=25.0)),
        "workers_per_device",
        "133 100 1",
    ),
    "HTTP process": (result("e1", machine=EIGHT, **BUSY, http_cpu_ms=16.0), "transport", "0.96"),
    "manager process": (result("e1", machine=EIGHT, **BUSY, manager_cpu_ms=16.0), "transport", "0.96"),
}


@pytest.mark.parametrize("cause", CAUSES)
def test_each_cause_is_named_with_its_figures(cause: str) -> None:
    own, parameter, figures = CAUSES[cause]
    found = limit(own)
    assert (found.cause, found.parameter) == (cause, parameter)
    assert set(figures.split()) <= set(re.findall(r"[\d,]+(?:\.\d+)?", found.text))
    if parameter:
        assert f"`{parameter}`" in found.text


@pytest.mark.parametrize(
    ("times", "cause"),
    [({"transport": 100.0}, "transport"), ({}, "load generator")],  # 117 of 133 ms are outside of the server
)
def test_idle_cores_are_laid_to_what_a_request_waits_for(times: dict[str, float], cause: str) -> None:
    assert limit(result("e1", **BUSY, **stages(**times))).cause == cause


def test_the_parts_of_a_loss_add_up_to_it() -> None:
    decoding = Why("preprocessing", None, "")
    losses = losses_of(result("e1", workers_cpu_ms=24.0, http_cpu_ms=5.0, other_percent=10.0), decoding)
    assert sum(loss.share.ratio for loss in losses) == pytest.approx(1.0)
    assert sum(loss.core_ms for loss in losses) == pytest.approx(2000 / 60 - 2000 / 100, rel=0.05)
    assert [loss.core_ms for loss in losses] == sorted((loss.core_ms for loss in losses), reverse=True)


def test_causes_that_cannot_be_told_apart_are_named_together() -> None:
    noisy = [
        turn("e1", "served", 60.0, number, workers_cpu_ms=19.0 + more, http_cpu_ms=1.0 + 12.0 - more)
        for number, more in enumerate((2.0, 10.0, 3.0, 9.0, 6.0, 5.5))
    ]
    own = result("e1")
    mixed = replace(own, turns=[*noisy, *(row for row in own.turns if row.work != "served")])
    assert limit(mixed).cause in ("contention and transport", "transport and contention")
    assert limit(result("e1", workers_cpu_ms=28.0, http_cpu_ms=3.0)).cause == "contention"


def test_without_in_process_rates_of_its_parts_a_loss_is_unexplained() -> None:
    own = result("e1", workers_cpu_ms=None)
    assert limit(own).cause == "unexplained"


def test_emulated_half_is_the_cause_whatever_else_is_slow() -> None:
    half = Classifier(precision="half", workers_per_device=4)
    emulating = MACHINE | {"bfloat16": False}
    e4 = result("e4", 0.8, 1.7, 1.6, serve=half, machine=emulating)
    e3 = result("e3", 20.0, 45.0, 40.0, serve=half.model_copy(update={"precision": "full"}))
    found = limit(e4, Timed([e3, e4]))
    assert (found.cause, found.parameter) == ("half precision is emulated", "precision")
    assert "25.0 times" in found.text
    assert limit(result("e4", 0.8, 1.7, 1.6, serve=half)).cause != found.cause
    # What is emulated is no advice.
    assert limit(result("e1", 99.0, machine=emulating), roofline_full_rps=101.0).parameter != "precision"


def test_a_bound_that_is_none_leaves_no_cause() -> None:
    found = limit(result("e1", 110.0))
    assert (found.cause, found.parameter) == ("", None)
    assert "a bound is none" in found.text


COMPILED = Classifier(compiled=True, preprocess="torchvision")


def package(precision: str, compiled_ms: float, eager_ms: float | None = None) -> PackageRow:
    return PackageRow(precision, 1, eager_ms, compiled_ms, None, 10.0, None)


def agreement(precision: str, share: float) -> PrecisionRow:
    photos = Agreement(111, share, share - 0.02, 0.99, 0.0, 0.001, 0.01, 0.0001)
    return PrecisionRow(**vars(photos), precision=precision, preprocess="torchvision", split=TEST)


def test_what_a_precision_brings_is_read_from_timed_packages() -> None:
    own = result("e1", 79.0, 100.0, 80.0, serve=COMPILED, noise=0.001, workers_cpu_ms=24.3)
    packages = [package("full", 10.0), package("int8", 5.0)]
    timed = Timed([own], packages, [agreement("int8", 0.982)])
    found = limit(own, timed, roofline_full_rps=1100.0)
    assert (found.cause, found.parameter) == ("preprocessing, then kernels", "precision")
    # Of 12.5 ms the model takes 10, then 5.
    assert {"5.0", "10.0", "98.2", "1.67"} <= set(re.findall(r"\d+\.\d+", found.text))
    assert "1.67" in found.brings
    slower = Timed([own], [package("full", 10.0), package("int8", 11.0)])
    assert limit(own, slower, roofline_full_rps=1100.0, roofline_half_rps=9000.0).parameter is None


def test_a_model_that_is_not_compiled_is_advised_by_its_packages() -> None:
    own = result("e1", 100.0, noise=0.0)
    found = limit(own, Timed([own], [package("full", 20.0, 45.0)]), roofline_full_rps=1100.0)
    assert (found.cause, found.parameter) == ("kernels", "compiled")
    assert "2.25" in found.text


def test_another_way_to_preprocess_is_advised_by_what_it_takes_elsewhere() -> None:
    own = result("e1", 49.0, 100.0, 50.0, **DECODES)
    fast = result("e7", 90.0, 100.0, 95.0, serve=COMPILED, workers_cpu_ms=20.5)
    found = limit(own, Timed([own, fast]))
    assert (found.cause, found.parameter) == ("preprocessing", "preprocess")
    assert "`e7`" in found.text
    assert limit(fast, Timed([own, fast])).parameter != "preprocess"


def test_hardware_is_named_where_the_model_reaches_its_peak() -> None:
    """On a steady machine, or it would not be resolved."""
    steady = [turn("e1", work, 100.0, number) for number in range(6) for work in ("model", "served")]
    own = replace(result("e1", 100.0), turns=steady)
    found = limit(own, roofline_full_rps=110.0)
    assert (found.cause, found.parameter) == ("hardware", "precision")


def test_where_nothing_is_lost_the_hardware_is_the_cause() -> None:
    assert limit(result("e1", 99.0), roofline_full_rps=101.0).cause == "hardware"


def test_a_row_of_an_earlier_run_has_no_cause() -> None:
    assert limit(replace(result("e1", 10.0), turns=[])).cause == ""


def test_preprocessing_on_idle_cores_calls_for_workers() -> None:
    found = limit(result("e1", 49.0, 100.0, 50.0, in_process={"cpu_percent": 50.0}, **DECODES))
    assert (found.cause, found.parameter) == ("preprocessing", "workers_per_device")
    assert "with fewer threads than 2 in each" in found.text


def test_a_larger_loss_above_the_model_follows_those_in_serving() -> None:
    own = result("e1", 60.0, workers_cpu_ms=31.0)
    found = limit(own, roofline_full_rps=800.0)
    assert (found.cause, found.parameter) == ("contention, then kernels", "threads_per_worker")
    assert found.loss is not None
    assert found.loss.name == "served"
    assert limit(own).cause == "contention"


def test_what_a_precision_brings_is_said_where_serving_loses_more() -> None:
    own = result("e1", 49.0, 100.0, 50.0, noise=0.001, serve=COMPILED, **DECODES)
    timed = Timed([own], [package("full", 10.0), package("int8", 5.0)])
    found = limit(own, timed, roofline_full_rps=130.0)
    assert (found.cause, found.parameter) == ("preprocessing", "precision")
    assert "int8" in found.text


def test_a_neighbour_that_slows_the_model_in_process_as_well_is_named() -> None:
    beside = {"other_percent": 25.0, "workers_wait_ms": 5.0}
    found = limit(result("e1", 99.0, **BUSY, **beside, in_process=beside))
    assert found.cause == "other processes"


ONE_CORE: dict[str, Any] = {
    **{"other_percent": 46.0, "batch_size": 1.0},
    **{"workers_cpu_ms": 11.5, "http_cpu_ms": 1.5, "manager_cpu_ms": 0.5, "client_cpu_ms": 0.3},
    **{"workers_wait_ms": 0.6, "http_wait_ms": 2.0, "manager_wait_ms": 1.7, "client_wait_ms": 0.4},
}
"""Measured beside a neighbour on the other of two cores: one worker of one thread, 82 req/s."""
ALL_CORES: dict[str, Any] = {
    **{"other_percent": 35.0, "batch_size": 1.0},
    **{"workers_cpu_ms": 10.5, "http_cpu_ms": 0.25, "manager_cpu_ms": 0.0, "client_cpu_ms": 0.2},
    **{"workers_wait_ms": 5.4, "http_wait_ms": 0.4, "manager_wait_ms": 0.0, "client_wait_ms": 0.3},
}
"""Likewise, two workers: 124 req/s, and 181 without the neighbour."""


def share_of(own: Result, cause: str) -> float:
    losses = losses_of(own, Why("preprocessing", None, ""))
    return sum(loss.share.ratio for loss in losses if loss.why.cause == cause)


def test_a_neighbour_on_a_core_that_the_pipeline_leaves_idle_takes_nothing() -> None:
    in_process = {"other_percent": 50.0, "workers_cpu_ms": 9.7, "workers_wait_ms": 0.1}
    own = result("e1", 82.0, 103.0, 103.0, in_process=in_process, **ONE_CORE)
    assert [rate and rate < 1.2 * 103 * max(SPEEDS) for rate in own.undisturbed_model] == [True] * len(SPEEDS)
    found = limit(own)
    assert share_of(own, "other processes") < 0.35
    assert found.cause != "other processes"
    assert "not known beside others" in found.text
    assert "103 images/s" in found.text


def test_a_neighbour_takes_from_a_pipeline_on_all_cores_what_its_threads_wait_for() -> None:
    """The model did 232 images/s without it, and 135 beside it."""
    in_process = {"other_percent": 42.0, "workers_cpu_ms": 8.9, "workers_wait_ms": 5.9}
    two = Classifier(workers_per_device=2, threads_per_worker=1)
    own = result("e1", 124.0, 135.0, 135.0, serve=two, in_process=in_process, **ALL_CORES)
    undisturbed = geometric_mean(
        rate / speed for rate, speed in zip(own.undisturbed_model, SPEEDS, strict=True) if rate
    )
    assert undisturbed == pytest.approx(232, rel=0.1)
    true = (1 / 124 - 1 / 181) / (1 / 124 - 1 / 232)
    assert share_of(own, "other processes") == pytest.approx(true, abs=0.1)
    assert "not known beside others" in limit(own).text


def test_little_load_beside_the_model_leaves_a_rate_with_its_interval() -> None:
    text = limit(result("e1", workers_cpu_ms=31.0, other_percent=2.0, in_process={"other_percent": 2.0})).text
    [(rate, low, high)] = re.findall(
        r"([\d.]+) \(([\d.]+) to ([\d.]+)\) images/s that the model allows", text
    )
    assert float(low) < 100 < float(high)
    assert float(low) < float(rate) < float(high)


QUOTA = MACHINE | {"cores": 2.0, "cpus": 64}
UNKNOWN: dict[str, Any] = {"other_percent": None, "steal_percent": None}


def test_under_a_quota_idle_cores_are_known_by_threads_that_wait_for_none() -> None:
    """Others' use of the CPUs is not: what they may have had is at most what threads waited for."""
    slow = stages(queue=100.0, model=25.0)
    idle = result("e1", machine=QUOTA, in_process=UNKNOWN, **BUSY, **UNKNOWN, **slow)
    found = limit(idle)
    assert found.cause == "too few workers"
    assert "undisturbed" not in found.text
    waiting = result("e1", machine=QUOTA, in_process=UNKNOWN, **BUSY, **UNKNOWN, **slow, workers_wait_ms=30.0)
    assert limit(waiting).cause == "other processes or the quota"
    assert idle.threads == 64


def test_where_waits_are_not_counted_others_are_not_told_from_idle_cores() -> None:
    unknown = {"other_percent": 36.0, "workers_wait_ms": None}
    own = result("e1", **BUSY, **unknown, in_process=unknown)
    assert limit(own).cause == "other processes or idle cores"
    assert own.undisturbed_model == own.rates("model")


def test_too_many_workers_are_named_however_noisy_the_served_rate_is() -> None:
    more = [turn("e1", "crowded", 60.0, high_rps=65.0)]
    steady = result("e1", serve=FOUR_WORKERS, more=more, workers_cpu_ms=31.0)
    noisy = [
        turn("e1", "served", 90.0 / factor, number, workers_cpu_ms=20.0 * factor)
        for number, factor in enumerate((3.0, 0.7, 0.7, 3.0, 0.7, 0.7))
    ]
    own = replace(steady, turns=[*noisy, *(row for row in steady.turns if row.work != "served")])
    assert not next(bound for bound in bounds_of(own, CEILINGS) if bound.name == "served").is_loss
    assert limit(own).cause == "too many workers"


def test_preprocessing_comes_first_only_if_it_loses_more_than_all_of_serving() -> None:
    """Two of them lose 3 ms each, preprocessing first 14, then 5."""
    loses: dict[str, Any] = {"workers_cpu_ms": 32.7, "client_cpu_ms": 4.0, "http_cpu_ms": 4.0}
    assert limit(result("e1", 48.0, 100.0, 58.0, **loses)).cause.startswith("preprocessing")
    assert not limit(result("e1", 48.0, 68.0, 58.0, **loses)).cause.startswith("preprocessing")


def serving(name: str, rate_rps: float, serve: Configuration, noise: float = 0.01, **others: Any) -> Result:
    """One whose rate differs by ``noise`` from round to round, besides the machine's speed."""
    own = result(name, rate_rps, serve=serve, **BUSY, **others)
    turns = [
        replace(row, rate_rps=row.rate_rps * (1 + noise * (-1) ** row.round))
        if row.work == "served" and row.rate_rps
        else row
        for row in own.turns
    ]
    return replace(own, turns=turns)


def test_the_key_is_named_by_which_another_configuration_served_most() -> None:
    """What a cause's own key is known to bring is less."""
    own = result("e1", **BUSY, http_cpu_ms=12.5)
    direct = serving("e2", 86.0, Classifier(transport="direct"))
    batches = serving("e3", 167.0, Classifier(max_batch_size=8, batch_timeout_s=0.01))
    assert (limit(own).parameter, limit(own).brings) == ("transport", "")
    found = limit(own, Timed([own, direct]))
    assert (found.cause, found.parameter) == ("transport", "transport")
    assert "1.43 (" in found.brings
    found = limit(own, Timed([own, direct, batches]))
    assert (found.cause, found.parameter) == ("transport", "max_batch_size")
    assert found.brings.startswith("8, with `batch_timeout_s: 0.01`, does 2.78 (")
    assert "`e3`" in found.text
    # Of the fastest nothing is known that brings more.
    assert limit(batches, Timed([own, direct, batches])).brings == ""


def test_no_key_is_not_said_where_one_was_measured_to_bring_more() -> None:
    serve = Classifier(transport="direct")
    own = serving("e1", 60.0, serve, http_cpu_ms=12.5)
    batches = serving("e2", 167.0, serve.model_copy(update={"max_batch_size": 8}))
    assert "no key" in limit(own).text
    found = limit(own, Timed([own, batches]))
    assert (found.cause, found.parameter) == ("transport", "max_batch_size")
    assert "no key" not in found.text


@pytest.mark.parametrize(
    ("rate_rps", "other"),
    [
        (90.0, Classifier(max_batch_size=8, workers_per_device=2, preprocess="scaled")),  # three keys
        (90.0, Classifier(max_queue=7)),  # no lever
        (64.0, Classifier(max_batch_size=8)),  # not certainly more
    ],
)
def test_another_configuration_is_no_advice_where_its_gain_is_no_keys_or_not_resolved(
    rate_rps: float, other: Configuration
) -> None:
    own = result("e1", **BUSY, http_cpu_ms=12.5)
    assert limit(own, Timed([own, serving("e2", rate_rps, other, noise=0.1)])).brings == ""


def test_a_row_of_an_earlier_run_is_no_measurement_of_this_one() -> None:
    own = result("e1", **BUSY, http_cpu_ms=12.5)
    kept = replace(serving("e2", 167.0, Classifier(max_batch_size=8)), turns=[])
    assert limit(own, Timed([own, kept])).brings == ""


@pytest.mark.parametrize(
    ("one_thread_rps", "parameter", "times"),
    [
        (None, "workers_per_device", "1.67"),
        (80.0, "workers_per_device", "1.67"),
        (150.0, "threads_per_worker", "2.50"),
    ],
)
def test_of_too_many_workers_fewer_threads_are_named_where_they_are_better_than_fewer_workers(
    one_thread_rps: float | None, parameter: str, times: str
) -> None:
    more = [turn("e1", "crowded", 60.0, high_rps=65.0)]
    if one_thread_rps:
        more.append(turn("e1", "one_thread", one_thread_rps, low_rps=0.97 * one_thread_rps))
    found = limit(result("e1", serve=FOUR_WORKERS, more=more, workers_cpu_ms=31.0))
    assert (found.cause, found.parameter) == ("too many workers", parameter)
    assert f"{times} times as many images/s in-process" in found.brings
    assert f"`{parameter}`" in found.text


def test_what_larger_batches_cost_in_process_is_advice_for_a_lit_api() -> None:
    serve = LitApi(api="server:API", transport="direct")
    own = replace(result("e1", serve=serve, **BUSY, http_cpu_ms=12.5), batch_ms={1: 28.0, 8: 10.0})
    assert limit(replace(own, batch_ms={})).parameter is None
    found = limit(own)
    assert (found.cause, found.parameter) == ("transport", "max_batch_size")
    assert found.brings.startswith("8 does 2.80 times")
    assert "in-process" in found.text
    alone = [row for row in own.turns if row.work == "served"]  # there was no time to run it in-process
    row = replace(own.compared, model_rps=None, pipeline_rps=None)
    found = limit(replace(own, turns=alone, compared=row))
    assert (found.cause, found.parameter) == ("", "max_batch_size")
    assert limit(replace(own, turns=[])).parameter is None
    slower = replace(own, batch_ms={1: 28.0, 8: 30.0})
    assert limit(slower).parameter is None
