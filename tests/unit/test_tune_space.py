"""Which configurations a search has to choose from, and what their parts predict."""

from __future__ import annotations

from typing import Any

import pytest

from litmeter.kinds.classifier import Classifier
from litmeter.kinds.configuration import Configuration, Costs, Exclusion, Host, TuneSettings, cpu_of
from litmeter.kinds.lit_api import LitApi, batch_formed
from litmeter.kinds.registry import read as read_keys
from litmeter.kinds.workers import WorkerTuneSettings
from litmeter.params import load_params
from litmeter.tune.search import ranking, subject_of
from litmeter.tune.space import DUPLICATE, changed_knobs, space_of
from tests.support.project import ROOT

CPU = Host("cpu", 2)
NARROW = {
    "precision": ("full",),
    "compiled": (False,),
    "preprocess": ("torchvision",),
    "transport": ("direct",),
    "workers_per_device": (1,),
    "threads_per_worker": (1,),
    "max_batch_size": (4,),
    "batch_timeout_s": (0.0,),
    "keep_freed_memory": (True,),
}


def tune(**knobs: Any) -> TuneSettings:
    return load_params(ROOT / "params.yaml").tune.model_copy(update={**NARROW, **knobs})


def spaces(machine: Host = CPU, **knobs: Any) -> tuple[list[Configuration], dict[str, int]]:
    space = space_of(tune(**knobs), Classifier(max_queue=7), machine)
    return list(space.configurations), dict(space.left_out)


def test_a_list_narrows_the_space_and_other_keys_stay_as_serve_has_them() -> None:
    found, left_out = spaces()
    assert [one.max_queue for one in found] == [7]
    assert (found[0].precision, found[0].transport, left_out) == ("full", "direct", {})


def test_what_cannot_run_is_left_out_with_the_reason() -> None:
    found, left_out = spaces(
        precision=("full", "int8"), compiled=(True, False), preprocess=("timm", "scaled")
    )
    assert len(found) == 4
    assert left_out["precision ('int8'): allowed without compiled: full or half"] == 2
    assert sum(number for reason, number in left_out.items() if reason.startswith("preprocess ('timm')")) == 2
    without_int8 = Host("cpu", 2, [Exclusion({"precision": "full", "compiled": True}, "no package")])
    found, left_out = spaces(without_int8, precision=("full", "half"), compiled=(True, False))
    assert {(one.precision, one.compiled) for one in found} == {
        ("full", False),
        ("half", True),
        ("half", False),
    }
    assert left_out == {"no package": 1}


def test_more_threads_than_cores_are_left_out_on_a_cpu_only() -> None:
    found, left_out = spaces(workers_per_device=(1, 2, 4), threads_per_worker=(1, 2))
    assert [(one.workers_per_device, one.threads_per_worker) for one in found] == [(1, 1), (1, 2), (2, 1)]
    assert list(left_out.values()) == [3]
    gpu = Host("cuda", 2)
    found, left_out = spaces(gpu, workers_per_device=(1, 4), threads_per_worker=(1, 2))
    # Threads preprocess, on the CPU, whatever runs the model.
    assert [(one.workers_per_device, one.threads_per_worker) for one in found] == [(1, 1), (1, 2), (4, 1)]
    assert list(left_out.values()) == [1]


@pytest.mark.parametrize(
    "knobs",
    [
        {"compiled": (True,), "threads_per_worker": (1, 2)},  # a package runs on one thread
        {"max_batch_size": (1,), "batch_timeout_s": (0.0, 0.01)},  # one request waits for no other
        {"max_batch_size": (8, 16)},  # 8 users fill no larger batch
    ],
)
def test_duplicates_are_left_out(knobs: dict[str, Any]) -> None:
    found, left_out = spaces(**knobs)
    assert (len(found), left_out) == (1, {DUPLICATE: 1})


def costs(model_s: dict[str, dict[int, float]], request_s: float = 0.0) -> Costs:
    others = {"preprocess torchvision": 0.002, "request direct": request_s, "request litserve": request_s}
    return {**model_s, **{name: {1: seconds} for name, seconds in others.items()}}


@pytest.mark.parametrize(
    ("knobs", "model_s", "request_s", "rps"),
    [
        # Workers that keep the cores busy bound the rate, and what a request costs besides.
        ({"workers_per_device": (2,)}, {4: 0.008}, 0.0, 2 / 0.010),
        ({"workers_per_device": (2,)}, {4: 0.008}, 0.002, 2 / 0.012),
        # One worker leaves a core idle.
        ({}, {4: 0.008}, 0.0, 1 / 0.010),
        # 8 users give each of 2 workers 4 requests: 4 x 10 ms of work, and 40 ms of waiting for the batch.
        (
            {"max_batch_size": (8,), "batch_timeout_s": (0.04,), "workers_per_device": (2,)},
            {4: 0.008, 8: 0.004},
            *(0.0, 2 * 4 / 0.080),
        ),
        # Costs between measured batch sizes are interpolated.
        (
            {"workers_per_device": (2,), "max_batch_size": (3,)},
            {1: 0.02, 2: 0.012, 4: 0.008},
            *(0.0, 2 / 0.012),
        ),
    ],
)
def test_a_predicted_rate_is_what_cores_workers_and_batches_allow(
    knobs: dict[str, Any], model_s: dict[int, float], request_s: float, rps: float
) -> None:
    [settings] = spaces(**knobs)[0]
    found = costs({settings.part_names()[0]: model_s}, request_s)
    assert settings.predicted_rps(found, CPU, 8) == pytest.approx(rps)


def test_a_model_on_a_gpu_takes_none_of_the_cores_and_bounds_the_rate() -> None:
    gpu = Host("cuda", 2)
    [settings] = spaces(gpu, workers_per_device=(4,), max_batch_size=(2,))[0]
    found = costs({settings.part_names()[0]: {2: 0.004}}, 0.001)
    assert settings.predicted_rps(found, gpu, 8) == pytest.approx(1 / 0.004)  # the cores allow 2 / 0.003
    fast = costs({settings.part_names()[0]: {2: 0.0001}}, 0.001)
    assert settings.predicted_rps(fast, gpu, 8) == pytest.approx(2 / 0.003)


def test_the_fastest_prediction_comes_first_and_of_equals_the_simpler() -> None:
    found, _ = spaces(max_batch_size=(1, 4), keep_freed_memory=(True, False))
    ranked = ranking(found, costs({one.part_names()[0]: {1: 0.010, 4: 0.006} for one in found}), CPU, 8)
    assert [one.max_batch_size for one, _ in ranked] == [4, 4, 1, 1]
    assert [one.keep_freed_memory for one, _ in ranked] == [False, True, False, True]
    assert ranked[0][0].simplicity < ranked[1][0].simplicity


def test_each_part_is_measured_once_on_as_many_cores_as_there_are() -> None:
    found, _ = spaces(max_batch_size=(1, 4), transport=("litserve", "direct"), threads_per_worker=(1, 2))
    parts = {part.name: part for part in Classifier.parts(found, "cpu", 2)}
    assert len(parts) == 5
    models = [part for part in parts.values() if part.work == "model"]
    assert sorted((part.settings.threads_per_worker, part.workers) for part in models) == [(1, 2), (2, 1)]
    assert all(part.batch_sizes == (1, 4) for part in models)
    assert parts["preprocess torchvision"].settings.workers_per_device == 2
    assert {subject_of(part) for part in parts.values() if part.work == "request"} == {
        "request litserve",
        "request direct",
    }


def test_workers_and_threads_are_one_knob() -> None:
    one = Classifier(workers_per_device=1, threads_per_worker=2)
    two = Classifier(workers_per_device=2, threads_per_worker=1)
    assert changed_knobs(one, two) == ["workers x threads"]
    assert changed_knobs(one, one) == []
    assert len(changed_knobs(one, two.model_copy(update={"max_batch_size": 4}))) == 2


def test_without_batches_a_timeout_is_no_difference() -> None:
    one = Classifier(max_batch_size=4, batch_timeout_s=0.01)
    assert changed_knobs(one, Classifier()) == changed_knobs(Classifier(), one) == ["max_batch_size"]
    assert len(changed_knobs(one, Classifier(max_batch_size=2))) == 2


OWN = LitApi(api="server:MyAPI", api_kwargs={"depth": 2}, path="/answer")


def own(**knobs: Any) -> Configuration:
    return read_keys(OWN.model_dump() | knobs)


def test_the_space_of_an_api_has_its_knobs_alone_and_reaches_as_far_as_is_useful() -> None:
    space = space_of(WorkerTuneSettings(), OWN, CPU)
    found = space.configurations
    assert {(one.workers_per_device, one.threads_per_worker) for one in found} == {
        *((1, 1), (1, 2), (2, 1)),
        (4, 1),  # it may wait for something else than a core
    }
    assert {one.max_batch_size for one in found} == {1, 2, 4, 8}
    assert {one.batch_timeout_s for one in found} == {0.0, 0.002, 0.01}
    assert all((one.api, one.api_kwargs, one.path) == (OWN.api, OWN.api_kwargs, OWN.path) for one in found)
    assert {one.transport for one in found} == {"litserve", "direct"}
    assert len({one.search_name for one in found}) == len(found) == 2 * 4 * (1 + 3 * 3)
    assert own(workers_per_device=2, threads_per_worker=1).search_name == "2x1 b1 0ms"
    three = space_of(WorkerTuneSettings(users=3, workers_per_device=(3,)), OWN, Host("cpu", 3)).configurations
    assert {one.max_batch_size for one in three} == {1, 2, 3}
    gpu = space_of(WorkerTuneSettings(), OWN, Host("cuda", 32)).configurations
    assert {one.workers_per_device for one in gpu} == {1, 2, 4}


def test_a_batch_size_with_a_fault_is_left_out() -> None:
    fault = "predict, batch of 2: ValueError"
    space = space_of(
        WorkerTuneSettings(),
        OWN,
        Host("cpu", 2, [Exclusion({"max_batch_size": size}, fault) for size in (2, 4)]),
    )
    assert {one.max_batch_size for one in space.configurations} == {1, 8}
    assert space.left_out[fault] == 2 * 2 * 3 * 4


def test_a_transport_with_a_fault_is_left_out() -> None:
    space = space_of(
        WorkerTuneSettings(), OWN, Host("cpu", 2, [Exclusion({"transport": "direct"}, "it streams")])
    )
    assert {one.transport for one in space.configurations} == {"litserve"}
    assert space.left_out["it streams"] > 0


def test_an_apis_pipeline_is_measured_as_it_is_batched() -> None:
    parts = LitApi.parts([own(threads_per_worker=1), own(threads_per_worker=1, max_batch_size=8)], "cpu", 2)
    assert [(part.work, part.workers, part.batch_sizes) for part in parts] == [
        ("pipeline", 2, (1, 8)),
        ("request", 2, (1,)),
    ]
    pipeline, null = (part.settings for part in parts)
    assert (pipeline.workers_per_device, pipeline.max_batch_size) == (2, 8)
    assert (null.api, null.workers_per_device, null.max_batch_size) == (OWN.api, 2, 1)
    for settings in (pipeline, null):  # processes read them so
        assert read_keys(settings.model_dump()) == settings


@pytest.mark.parametrize(
    ("workers", "most", "timeout_s", "size", "wait_s"),
    [
        (1, 8, 0.0, 4.0, 0.0),  # half of the users wait, the others have just been answered
        (1, 2, 0.01, 2.0, 0.0),  # as many as it takes are there
        (3, 8, 0.0, 2.0, 0.0),
        (1, 8, 0.1, 8.0, 0.008),  # full as soon as all have sent again
        (1, 6, 0.1, 6.0, 0.004),
        (1, 8, 0.002, 5.0, 0.002),  # too short for all
        (1, 16, 0.1, 8.0, 0.1),  # more than there are users: it waits in vain
        (16, 4, 0.01, 1.0, 0.01),
        (16, 4, 0.0, 1.0, 0.0),
    ],
)
def test_batches_as_litserves_loop_forms_them(
    workers: int, most: int, timeout_s: float, size: float, wait_s: float
) -> None:
    """8 users whose requests arrive one in each millisecond."""
    settings = own(workers_per_device=workers, max_batch_size=most, batch_timeout_s=timeout_s)
    assert batch_formed(settings, 8, 0.001) == pytest.approx((size, wait_s))


def test_the_rate_of_an_api_is_bound_by_the_cores_or_by_its_workers() -> None:
    """An item takes a worker 10 ms, of which it computes 2; a request costs 1 ms, half of it the worker's."""
    pipeline, request = own(threads_per_worker=1).part_names()
    found = {
        pipeline: {1: 0.010},
        cpu_of(pipeline): {1: 0.002},
        request: {1: 0.001},
        cpu_of(request): {1: 0.0005},
    }
    rates = [
        own(threads_per_worker=1, workers_per_device=workers).predicted_rps(found, CPU, 32)
        for workers in (1, 4, 16)
    ]
    assert rates == pytest.approx([1 / 0.0105, 4 / 0.0105, 2 / 0.003])
    found[pipeline] = found[cpu_of(pipeline)] = {1: 1e-6}
    polling = own(threads_per_worker=1, workers_per_device=4, max_batch_size=4)
    assert polling.predicted_rps(found, CPU, 32) == pytest.approx(2 * 3 / 7 / 0.0005)
    direct = polling.model_copy(update={"transport": "direct"})
    found |= {"request direct": found[request], cpu_of("request direct"): found[cpu_of(request)]}
    assert direct.predicted_rps(found, CPU, 32) > 1000
