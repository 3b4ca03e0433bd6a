"""Which configurations a search has to choose from, and which are neighbours."""

from __future__ import annotations

from typing import Any

import pytest

from litmeter.kinds.classifier import Classifier
from litmeter.kinds.configuration import Configuration, Exclusion, Host, TuneSettings
from litmeter.kinds.lit_api import LitApi, LitApiTuneSettings
from litmeter.kinds.registry import read as read_keys
from litmeter.params import load_params
from litmeter.tune.space import DUPLICATE, changed_knobs, neighbours, space_of
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


def test_a_compiled_model_has_workers_and_threads_to_choose_from() -> None:
    found, _ = spaces(compiled=(True,), workers_per_device=(1, 2), threads_per_worker=(1, 2))
    assert [(one.workers_per_device, one.threads_per_worker) for one in found] == [(1, 1), (1, 2), (2, 1)]


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
        {"max_batch_size": (1,), "batch_timeout_s": (0.0, 0.01)},  # one request waits for no other
        {"max_batch_size": (8, 16)},  # 8 users fill no larger batch
    ],
)
def test_duplicates_are_left_out(knobs: dict[str, Any]) -> None:
    found, left_out = spaces(**knobs)
    assert (len(found), left_out) == (1, {DUPLICATE: 1})


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


def named(configurations: list[Configuration]) -> set[str]:
    return {one.search_name for one in configurations}


def test_neighbours_have_another_value_of_one_knob() -> None:
    found, _ = spaces(
        workers_per_device=(1, 2),
        threads_per_worker=(1, 2),
        max_batch_size=(1, 4),
        batch_timeout_s=(0.0, 0.01),
    )
    centre = next(one for one in found if one.search_name.endswith("2x1 b4 0ms keep"))
    model = "full torch torchvision direct"
    assert named(neighbours(centre, found)) == {
        *(f"{model} 1x1 b4 0ms keep", f"{model} 1x2 b4 0ms keep"),
        *(f"{model} 2x1 b1 0ms keep", f"{model} 2x1 b4 10ms keep"),
    }


def test_where_a_value_excludes_another_a_neighbour_differs_in_both() -> None:
    found, _ = spaces(precision=("full", "int8"), compiled=(False, True), preprocess=("timm", "torchvision"))
    centre = next(one for one in found if one.search_name.startswith("full torch timm"))
    assert {one.rpartition(" direct")[0] for one in named(neighbours(centre, found))} == {
        *("full torch torchvision", "full compiled torchvision", "int8 compiled torchvision"),
    }


OWN = LitApi(api="server:MyAPI", api_kwargs={"depth": 2}, path="/answer")


def own(**knobs: Any) -> Configuration:
    return read_keys(OWN.model_dump() | knobs)


def test_the_space_of_an_api_has_its_knobs_alone_and_reaches_as_far_as_is_useful() -> None:
    space = space_of(LitApiTuneSettings(), OWN, CPU)
    found = space.configurations
    assert {(one.workers_per_device, one.threads_per_worker) for one in found} == {
        *((1, 1), (1, 2), (2, 1)),
        *((4, 1), (8, 1)),  # they may wait for something else than a core
    }
    assert {one.max_batch_size for one in found} == {1, 2, 4, 8}
    assert {one.batch_timeout_s for one in found} == {0.0, 0.002, 0.01}
    assert all((one.api, one.api_kwargs, one.path) == (OWN.api, OWN.api_kwargs, OWN.path) for one in found)
    assert {one.transport for one in found} == {"litserve", "direct"}
    assert len({one.search_name for one in found}) == len(found) == 2 * 5 * (1 + 3 * 3)
    assert own(workers_per_device=2, threads_per_worker=1).search_name == "2x1 b1 0ms"
    three = space_of(LitApiTuneSettings(users=3, workers_per_device=(3,)), OWN, Host("cpu", 3)).configurations
    assert {one.max_batch_size for one in three} == {1, 2, 3}
    gpu = space_of(LitApiTuneSettings(), OWN, Host("cuda", 32)).configurations
    assert {one.workers_per_device for one in gpu} == {1, 2, 4}


def test_a_batch_size_with_a_fault_is_left_out() -> None:
    fault = "predict, batch of 2: ValueError"
    space = space_of(
        LitApiTuneSettings(),
        OWN,
        Host("cpu", 2, [Exclusion({"max_batch_size": size}, fault) for size in (2, 4)]),
    )
    assert {one.max_batch_size for one in space.configurations} == {1, 8}
    assert space.left_out[fault] == 2 * 2 * 3 * 5


def test_a_transport_with_a_fault_is_left_out() -> None:
    space = space_of(
        LitApiTuneSettings(), OWN, Host("cpu", 2, [Exclusion({"transport": "direct"}, "it streams")])
    )
    assert {one.transport for one in space.configurations} == {"litserve"}
    assert space.left_out["it streams"] > 0


def test_http_processes_are_searched_if_asked_and_only_with_litserves_transport() -> None:
    def found(tune: LitApiTuneSettings) -> set[tuple[str, int]]:
        space = space_of(tune, own(num_api_servers=3), CPU)
        assert len({one.search_name for one in space.configurations}) == len(space.configurations)
        return {(one.transport, one.num_api_servers) for one in space.configurations}

    assert found(LitApiTuneSettings()) == {("litserve", 3), ("direct", 1)}
    assert found(LitApiTuneSettings(num_api_servers=(1, 2))) == {
        ("litserve", 1),
        ("litserve", 2),
        ("direct", 1),
    }
