"""What limits a configuration: synthetic results for each cause."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from statistics import geometric_mean
from typing import Any

import pytest

from litmeter.classifier.model.rows import TEST, PackageRow, PrecisionRow
from litmeter.kinds.classifier import Classifier
from litmeter.kinds.configuration import Configuration
from litmeter.kinds.lit_api import LitApi
from litmeter.measure.rows import TurnRow
from litmeter.report.diagnosis import Diagnosis, bounds_of, diagnose
from litmeter.report.losses import NO_KEY, Why, losses_of
from litmeter.report.results import Result
from litmeter.stats.agreement import Agreement
from tests.support.synthetic_results import CEILINGS, MACHINE, SPEEDS, STAGES, result, turn

BATCHING = Classifier(max_batch_size=64, batch_timeout_s=0.05)
FOUR_WORKERS = Classifier(max_batch_size=64, batch_timeout_s=0.01, workers_per_device=4)
BUSY: dict[str, Any] = {"workers_cpu_ms": 19.0}
"""The workers' time in-process: at 60 of 100 req/s a request costs 13.3 ms more in other parts."""
DECODES: dict[str, Any] = {"workers_cpu_ms": 39.0}
"""Decoding and preprocessing takes as long as the model."""
CROWDED = [turn("e1", "crowded", 60.0, high_rps=65.0)]
SLOW: dict[str, Any] = {"workers_cpu_ms": 31.0}
EIGHT = MACHINE | {"cores": 8}
e1 = partial(result, "e1")


def limit(own: Result, *others: Result, **rooflines: float) -> Diagnosis:
    """The diagnosis beside results of ``others``, with other rooflines by precision."""
    known = CEILINGS.with_rooflines(rooflines)
    return diagnose(own, bounds_of(own, known), known, [own, *others])


def named(found: Diagnosis) -> tuple[str, str | None]:
    return found.cause, found.parameter


def stages(**times: float) -> dict[str, Any]:
    return {"stage_ms": STAGES | times}


CAUSES: dict[str, tuple[Result, str | None, str]] = {
    "preprocessing": (e1(49.0, 100.0, 50.0, **DECODES), "precision", "49.0 100"),
    "contention": (e1(**SLOW), "threads_per_worker", "31.0 19.3 86"),
    "transport": (e1(**BUSY, http_cpu_ms=12.5), "transport", "12.5 0.5 96"),
    "load generator": (e1(**BUSY, client_cpu_ms=12.0), "precision", "12.0 88"),
    "other processes": (e1(**BUSY, other_percent=36.0, workers_wait_ms=12.0), "precision", "90 36"),
    "hypervisor": (e1(**BUSY, steal_percent=36.0), "precision", "90"),
    "small batches": (
        e1(more=[turn("e1", "pipeline", 60.0, **SLOW)], in_process={"batch_size": 4.0}, **SLOW),
        "max_batch_size",
        "1.0 61.0 100 4",
    ),
    "large batches": (
        e1(
            serve=BATCHING,
            more=[turn("e1", "pipeline", 60.0, batch_size=8.0, **SLOW)],
            **SLOW,
            batch_size=8.0,
        ),
        "max_batch_size",
        "8.0 61.0 100 64",
    ),
    "too many workers": (e1(serve=FOUR_WORKERS, more=CROWDED, **SLOW), "workers_per_device", "60.0 100 4 2"),
    "batch window": (
        e1(serve=BATCHING, **BUSY, **stages(queue=48.0, model=70.0)),
        "batch_timeout_s",
        "133 48 0.05",
    ),
    "too few workers": (
        e1(machine=EIGHT, **BUSY, **stages(queue=100.0, model=25.0)),
        "workers_per_device",
        "133 100 1",
    ),
    "too few threads": (
        e1(
            serve=Classifier(workers_per_device=16, threads_per_worker=1),
            machine=MACHINE | {"cores": 16},
            more=[turn("e1", "lone", 20.0), turn("e1", "spread", 36.0)],
            **BUSY,
        ),
        "threads_per_worker",
        "1.80 2 8",
    ),
    "HTTP process": (e1(machine=EIGHT, **BUSY, http_cpu_ms=16.0), "transport", "0.96"),
    "manager process": (e1(machine=EIGHT, **BUSY, manager_cpu_ms=16.0), "transport", "0.96"),
}


@pytest.mark.parametrize("cause", CAUSES)
def test_each_cause_is_named_with_its_key_and_figures(cause: str) -> None:
    own, parameter, figures = CAUSES[cause]
    found = limit(own)
    assert named(found) == (cause, parameter)
    assert set(figures.split()) <= set(re.findall(r"[\d,]+(?:\.\d+)?", found.text))
    assert parameter is None or f"`{parameter}`" in found.text


HALF = Classifier(precision="half", workers_per_device=4)
EMULATING = MACHINE | {"bfloat16": False}
BESIDE: dict[str, Any] = {"other_percent": 25.0, "workers_wait_ms": 5.0}
NOT_COUNTED: dict[str, Any] = {"other_percent": 36.0, "workers_wait_ms": None}
STEADY = [turn("e1", work, 100.0, number) for number in range(6) for work in ("model", "served")]


@pytest.mark.parametrize(
    ("own", "rooflines", "cause", "parameter"),
    [
        # 117 of the 133 ms of a request are outside of the server.
        (e1(**BUSY, **stages(transport=100.0)), {}, "transport", "transport"),
        (e1(**BUSY, **stages()), {}, "load generator", "precision"),
        # A server of streams times none of its stages.
        (e1(**BUSY, stage_ms={"transport": 130.0}), {}, "idle cores", "precision"),
        (e1(**BUSY, stage_ms={"queue": 100.0, "model": 30.0}), {}, "too few workers", "workers_per_device"),
        (e1(workers_cpu_ms=None), {}, "unexplained", "precision"),
        (e1(workers_cpu_ms=28.0, http_cpu_ms=3.0), {}, "contention", "threads_per_worker"),
        (
            result("e4", 0.8, 1.7, 1.6, serve=HALF, machine=EMULATING),
            {},
            "half precision is emulated",
            "precision",
        ),
        (e1(99.0, machine=EMULATING), {"full": 101.0}, "hardware", None),
        (e1(99.0), {"full": 101.0}, "hardware", "precision"),
        (replace(e1(100.0), turns=STEADY), {"full": 110.0}, "hardware", "precision"),
        (e1(110.0), {}, "", None),  # above its bound
        (replace(e1(10.0), turns=[]), {}, "", None),  # of an earlier run
        (e1(99.0, **BUSY, **BESIDE, in_process=BESIDE), {}, "other processes", "precision"),
        (e1(**BUSY, **NOT_COUNTED, in_process=NOT_COUNTED), {}, "other processes or idle cores", "precision"),
        (e1(**SLOW), {"full": 800.0}, "contention, then kernels", "threads_per_worker"),
        (e1(**SLOW), {}, "contention", "threads_per_worker"),
        (
            e1(49.0, 100.0, 50.0, in_process={"cpu_percent": 50.0}, **DECODES),
            {},
            "preprocessing",
            "workers_per_device",
        ),
    ],
)
def test_causes_of_other_results(
    own: Result, rooflines: dict[str, float], cause: str, parameter: str | None
) -> None:
    found = limit(own, **rooflines)
    assert named(found) == (cause, parameter)


def waiting(served_rps: float, batch_size: float, workers: int = 1, **changes: Any) -> Result:
    """A LitAPI whose workers wait 20 ms for each batch of up to eight."""
    serve = LitApi(api="server:API", max_batch_size=8, workers_per_device=workers)
    cpu = {"workers_cpu_ms": 0.2, "cpu_percent": 5.0}
    rates = {float(size): 50.0 * size * workers for size in (1, 2, 4, 8)}
    sizes = [turn("e1", "pipeline", rates[size], -1, batch_size=size, **cpu) for size in (1.0, 2.0, 4.0)]
    in_process: dict[str, Any] = {"batch_size": 8.0, **cpu}
    columns: dict[str, Any] = {"batch_size": batch_size, "workers_cpu_ms": 0.4, **changes}
    return e1(served_rps, rates[8.0], rates[8.0], serve=serve, more=sizes, in_process=in_process, **columns)


@pytest.mark.parametrize("stage_ms", [{}, STAGES | {"queue": 19.0, "model": 20.0}])
def test_half_full_batches_of_a_model_that_waits_are_a_cause(stage_ms: dict[str, float]) -> None:
    """The pipeline does 195 requests/s in batches of 3.9, by interpolated times."""
    found = limit(waiting(191.0, 3.9, stage_ms=stage_ms))
    assert named(found) == ("small batches", "batch_timeout_s")
    assert {"3.9", "8"} <= set(re.findall(r"\d+(?:\.\d+)?", found.text))
    [times] = re.findall(r"for (.*) times as many requests/s at most", found.text)
    assert float(times) == pytest.approx(400 / 195, rel=0.02)


def test_batches_that_users_cannot_fill_need_more_users() -> None:
    """Of eight users each of two workers gets four at once."""
    found = limit(waiting(380.0, 3.8, workers=2, http_cpu_ms=0.2, manager_cpu_ms=0.1))
    assert named(found) == ("small batches", "comparison.users")


@pytest.mark.parametrize(
    ("served_rps", "full_rps", "cause"),
    [
        (300.0, 1590.0, "too few users"),
        (398.0, 1590.0, "too few users"),  # of what these users can get, nothing is lost
        (300.0, 480.0, "transport"),  # less than what serving loses
        (300.0, 402.0, "transport"),  # not certainly more
    ],
)
def test_workers_that_users_cannot_fill_need_more_users(
    served_rps: float, full_rps: float, cause: str
) -> None:
    """Eight users fill one of four workers, or all in batches of two."""
    own = waiting(served_rps, 8.0, workers=1, http_cpu_ms=2.0)
    serve = own.serve.model_copy(update={"workers_per_device": 4})
    full = turn("e1", "filled", full_rps, -1, low_rps=0.98 * full_rps, batch_size=8.0)
    found = limit(replace(own, serve=serve, turns=[*own.turns, full]))
    assert found.cause == cause
    assert (found.parameter == "comparison.users") == (cause == "too few users")


@pytest.mark.parametrize(
    ("served_rps", "noise", "without"),
    [
        (98.0, 0.001, "nothing lost"),  # within 2%, though surely less
        (100.0, 0.001, "nothing lost"),
        (100.0, 0.2, "not resolved: at most 22% is lost"),
        (90.0, 0.2, "not resolved: at most 30% is lost"),
        (90.0, 0.001, ""),
    ],
)
def test_whether_anything_is_lost_is_told_by_the_interval_of_the_loss(
    served_rps: float, noise: float, without: str
) -> None:
    serve = LitApi(api="server:API")
    own = e1(served_rps, serve=serve, noise=0.0, workers_cpu_ms=None)  # no cause explains anything
    turns = [
        replace(row, rate_rps=(row.rate_rps or 0) * (1 + noise * (-1) ** row.round)) for row in own.served
    ]
    own = with_served(own, turns)
    found = diagnose(own, bounds_of(own, None), None)
    assert found.without == without
    assert found.cause == ("" if without else "unexplained")


def test_twice_the_workers_are_advised_where_nothing_is_lost() -> None:
    more = [turn("e1", "more", 196.0, -1, low_rps=190.0)]
    found = limit(e1(99.0, serve=LitApi(api="server:API"), noise=0.001, more=more))
    assert found.parameter == "workers_per_device"
    assert "2 do 1.96 times" in found.advice


def test_the_parts_of_a_loss_add_up_to_it() -> None:
    decoding = Why("preprocessing", None, "")
    losses = losses_of(e1(workers_cpu_ms=24.0, http_cpu_ms=5.0, other_percent=10.0), decoding)
    assert sum(loss.share.ratio for loss in losses) == pytest.approx(1.0)
    assert sum(loss.core_ms for loss in losses) == pytest.approx(2000 / 60 - 2000 / 100, rel=0.05)
    assert [loss.core_ms for loss in losses] == sorted((loss.core_ms for loss in losses), reverse=True)


def with_served(own: Result, rows: Sequence[TurnRow]) -> Result:
    return replace(own, turns=[*rows, *(row for row in own.turns if row.work != "served")])


def test_causes_that_cannot_be_told_apart_are_named_together() -> None:
    noisy = [
        turn("e1", "served", 60.0, number, workers_cpu_ms=19.0 + more, http_cpu_ms=1.0 + 12.0 - more)
        for number, more in enumerate((2.0, 10.0, 3.0, 9.0, 6.0, 5.5))
    ]
    found = limit(with_served(e1(), noisy)).cause
    assert found in ("contention and transport", "transport and contention")


COMPILED = Classifier(compiled=True, preprocess="torchvision", threads_per_worker=1)


def package(precision: str, compiled_ms: float, eager_ms: float | None = None) -> PackageRow:
    return PackageRow(precision, 1, eager_ms, compiled_ms, None, 10.0, None)


def with_packages(own: Result, *packages: PackageRow, agreement: float = 0.982) -> Result:
    photos = Agreement(111, agreement, agreement - 0.02, 0.99, 0.0, 0.001, 0.01, 0.0001)
    changes = [PrecisionRow(**vars(photos), precision="int8", preprocess="torchvision", split=TEST)]
    return replace(own, faster=[*own.serve.faster_models(packages, changes)])


def test_the_effect_of_a_precision_is_read_from_timed_packages() -> None:
    own = e1(79.0, 100.0, 80.0, serve=COMPILED, noise=0.001, workers_cpu_ms=24.3)
    timed = package("full", 10.0), package("int8", 5.0)
    found = limit(with_packages(own, *timed), full=1100.0)
    assert named(found) == ("preprocessing, then kernels", "precision")
    # Of 12.5 ms the model takes 10, then 5.
    assert {"5.0", "10.0", "98.2", "1.67"} <= set(re.findall(r"\d+\.\d+", found.text))
    assert "1.67" in found.advice
    two = with_packages(replace(own, serve=COMPILED.model_copy(update={"threads_per_worker": 2})), *timed)
    assert "1.67" not in limit(two, full=1100.0).text
    assert "on one thread 2.00 times" in limit(two, full=1100.0).text
    slower = with_packages(own, package("full", 10.0), package("int8", 11.0))
    assert limit(slower, full=1100.0, half=9000.0).parameter is None
    decoding = e1(49.0, 100.0, 50.0, noise=0.001, serve=COMPILED, **DECODES)
    found = limit(with_packages(decoding, *timed), full=130.0)
    assert named(found) == ("preprocessing", "precision")


def test_a_model_that_is_not_compiled_is_advised_by_its_packages() -> None:
    own = with_packages(e1(100.0, noise=0.0), package("full", 20.0, 45.0))
    found = limit(own, full=1100.0)
    assert named(found) == ("kernels", "compiled")
    assert "2.25" in found.text


def test_another_way_to_preprocess_is_advised_by_its_time_elsewhere() -> None:
    own = e1(49.0, 100.0, 50.0, **DECODES)
    fast = result("e7", 90.0, 100.0, 95.0, serve=COMPILED, workers_cpu_ms=20.5)
    found = limit(own, fast)
    assert named(found) == ("preprocessing", "preprocess")
    assert "`e7`" in found.text
    assert limit(fast, own).parameter != "preprocess"


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
    own = e1(82.0, 103.0, 103.0, in_process=in_process, **ONE_CORE)
    assert [rate and rate < 1.2 * 103 * max(SPEEDS) for rate in own.undisturbed_model] == [True] * len(SPEEDS)
    found = limit(own)
    assert share_of(own, "other processes") < 0.35
    assert found.cause != "other processes"
    assert "103 images/s" in found.text


def test_a_neighbour_takes_from_a_pipeline_on_all_cores_as_much_as_its_threads_wait() -> None:
    """The model did 232 images/s without it, and 135 beside it."""
    in_process = {"other_percent": 42.0, "workers_cpu_ms": 8.9, "workers_wait_ms": 5.9}
    two = Classifier(workers_per_device=2, threads_per_worker=1)
    own = e1(124.0, 135.0, 135.0, serve=two, in_process=in_process, **ALL_CORES)
    undisturbed = geometric_mean(
        rate / speed for rate, speed in zip(own.undisturbed_model, SPEEDS, strict=True) if rate
    )
    assert undisturbed == pytest.approx(232, rel=0.1)
    true = (1 / 124 - 1 / 181) / (1 / 124 - 1 / 232)
    assert share_of(own, "other processes") == pytest.approx(true, abs=0.1)


def test_beside_little_load_the_models_rate_has_an_interval() -> None:
    text = limit(e1(**SLOW, other_percent=2.0, in_process={"other_percent": 2.0})).text
    [(rate, low, high)] = re.findall(r"([\d.]+) \(([\d.]+) to ([\d.]+)\) images/s that the model", text)
    assert float(low) < 100 < float(high)
    assert float(low) < float(rate) < float(high)


QUOTA = MACHINE | {"cores": 2.0, "cpus": 64}
UNKNOWN: dict[str, Any] = {"other_percent": None, "steal_percent": None}


def test_under_a_quota_threads_that_wait_for_no_core_tell_that_cores_are_idle() -> None:
    """Others' use of the CPUs is not known: it matters at most as much as threads waited."""
    slow = stages(queue=100.0, model=25.0)
    idle = e1(machine=QUOTA, in_process=UNKNOWN, **BUSY, **UNKNOWN, **slow)
    assert limit(idle).cause == "too few workers"
    waiting = e1(machine=QUOTA, in_process=UNKNOWN, **BUSY, **UNKNOWN, **slow, workers_wait_ms=30.0)
    assert limit(waiting).cause == "other processes or the quota"
    assert idle.threads == 64


def test_where_waits_are_not_counted_no_rate_is_corrected() -> None:
    own = e1(**BUSY, **NOT_COUNTED, in_process=NOT_COUNTED)
    assert own.undisturbed_model == own.rates("model")


def test_too_many_workers_are_named_however_noisy_the_served_rate_is() -> None:
    noisy = [
        turn("e1", "served", 90.0 / factor, number, workers_cpu_ms=20.0 * factor)
        for number, factor in enumerate((3.0, 0.7, 0.7, 3.0, 0.7, 0.7))
    ]
    own = with_served(e1(serve=FOUR_WORKERS, more=CROWDED, **SLOW), noisy)
    assert not next(bound for bound in bounds_of(own, CEILINGS) if bound.name == "served").is_loss
    assert limit(own).cause == "too many workers"


@pytest.mark.parametrize(
    ("one_thread_rps", "parameter", "times"),
    [
        (None, "workers_per_device", "1.67"),
        (80.0, "workers_per_device", "1.67"),
        (150.0, "threads_per_worker", "2.50"),
    ],
)
def test_against_too_many_workers_the_better_of_fewer_workers_and_fewer_threads_is_named(
    one_thread_rps: float | None, parameter: str, times: str
) -> None:
    one = [turn("e1", "one_thread", rps, low_rps=0.97 * rps) for rps in (one_thread_rps,) if rps]
    found = limit(e1(serve=FOUR_WORKERS, more=[*CROWDED, *one], **SLOW))
    assert named(found) == ("too many workers", parameter)
    assert times in found.advice
    assert f"`{parameter}`" in found.text


def test_preprocessing_comes_first_only_if_it_loses_more_than_all_of_serving() -> None:
    """Two of them lose 3 ms each, preprocessing first 14, then 5."""
    loses: dict[str, Any] = {"workers_cpu_ms": 32.7, "client_cpu_ms": 4.0, "http_cpu_ms": 4.0}
    assert limit(e1(48.0, 100.0, 58.0, **loses)).cause.startswith("preprocessing")
    assert not limit(e1(48.0, 68.0, 58.0, **loses)).cause.startswith("preprocessing")


def serving(name: str, rate_rps: float, serve: Configuration, noise: float = 0.01, **others: Any) -> Result:
    """A result whose rate differs by ``noise`` from round to round, besides the machine's speed."""
    own = result(name, rate_rps, serve=serve, **BUSY, **others)
    return with_served(
        own,
        [
            replace(row, rate_rps=(row.rate_rps or 0.0) * (1 + noise * (-1) ** row.round))
            for row in own.served
        ],
    )


OWN = e1(**BUSY, http_cpu_ms=12.5)


def test_the_key_is_named_by_which_another_configuration_served_most() -> None:
    direct = serving("e2", 86.0, Classifier(transport="direct"))
    batches = serving("e3", 167.0, Classifier(max_batch_size=8, batch_timeout_s=0.01))
    assert limit(OWN).parameter == "transport"
    found = limit(OWN, direct)
    assert named(found) == ("transport", "transport")
    assert "1.43 (" in found.advice
    found = limit(OWN, direct, batches)
    assert named(found) == ("transport", "max_batch_size")
    assert all(part in found.advice for part in ("8", "`batch_timeout_s: 0.01`", "2.78 (", "`e3`"))
    assert found.advice.partition(": ")[2] in found.text
    assert limit(batches, OWN, direct).advice == ""  # the fastest


def test_no_key_is_not_said_where_a_key_was_measured_to_bring_more() -> None:
    serve = Classifier(transport="direct")
    own = serving("e1", 60.0, serve, http_cpu_ms=12.5)
    assert NO_KEY in limit(own).text
    found = limit(own, serving("e2", 167.0, serve.model_copy(update={"max_batch_size": 8})))
    assert named(found) == ("transport", "max_batch_size")
    assert NO_KEY not in found.text


@pytest.mark.parametrize(
    "other",
    [
        serving("e2", 90.0, Classifier(max_batch_size=8, workers_per_device=2, preprocess="scaled"), 0.1),
        serving("e2", 90.0, Classifier(max_queue=7), 0.1),  # no lever
        serving("e2", 64.0, Classifier(max_batch_size=8), 0.1),  # not certainly more
        replace(serving("e2", 167.0, Classifier(max_batch_size=8)), turns=[]),  # of an earlier run
    ],
    ids=["three keys", "no lever", "not resolved", "earlier"],
)
def test_a_gain_that_is_no_keys_or_not_certain_is_no_advice(other: Result) -> None:
    assert limit(OWN, other).advice == limit(OWN).advice == "`transport` (direct) may move it"


def test_rows_of_an_earlier_run_are_no_advice_for_each_other() -> None:
    batches = serving("e2", 167.0, Classifier(max_batch_size=8))
    assert limit(replace(OWN, turns=[]), replace(batches, turns=[])).advice == ""


def test_the_time_of_larger_batches_in_process_is_advice_for_a_lit_api() -> None:
    serve = LitApi(api="server:API", transport="direct")
    own = replace(e1(serve=serve, **BUSY, http_cpu_ms=12.5), batch_ms={1: 28.0, 8: 10.0})
    found = limit(own)
    assert named(found) == ("transport", "max_batch_size")
    assert "2.80" in found.advice
    row = replace(own.compared, model_rps=None, pipeline_rps=None)
    not_in_process = replace(own, turns=own.served, compared=row)
    assert named(limit(not_in_process)) == ("", "max_batch_size")
    for batch_ms, turns in (({}, own.turns), ({1: 28.0, 8: 10.0}, []), ({1: 28.0, 8: 30.0}, own.turns)):
        assert limit(replace(own, batch_ms=batch_ms, turns=turns)).parameter is None
    two = LitApi(api="server:API", transport="direct", workers_per_device=2)
    assert (
        "in-process" not in limit(replace(own, serve=two)).advice
    )  # 8 users fill batches of 8 in one worker
