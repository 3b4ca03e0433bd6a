"""What limits a configuration: a synthetic one for each cause."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest

from litmeter.params import ServeSettings
from litmeter.report.diagnosis import Diagnosis, bounds_of, diagnose
from litmeter.report.results import Result
from tests.support.synthetic_results import CEILINGS, MACHINE, STAGES, compared, result, turn

BATCHING = ServeSettings(max_batch_size=64, batch_timeout_s=0.05)
FOUR_WORKERS = ServeSettings(max_batch_size=64, batch_timeout_s=0.01, workers_per_device=4)
IDLE: dict[str, Any] = {"cpu_percent": 55.0}


def limit(own: Result, **ceilings: Any) -> Diagnosis:
    known = CEILINGS | ceilings
    return diagnose(own, bounds_of(own, known), known)


def stages(**times: float) -> dict[str, Any]:
    return {"stage_ms": json.dumps(STAGES | times)}


CAUSES: dict[str, tuple[Result, str | None, str]] = {
    "kernels": (result("e1", 99.0, noise=0.0), "compiled", "100.0 1,100.0 9.0"),
    "preprocessing": (result("e1", 49.0, 100.0, 50.0), "preprocess", "50.0 50 100.0 10.0"),
    "transport": (
        result("e1", 66.0, null={"server_cores": 7.2}, client_cpu_ms=1.0),
        "transport",
        "69.0 69 100.0 9.0 1.0",
    ),
    "batch window": (
        result("e1", 16.0, serve=BATCHING, mean_ms=62.0, **IDLE, **stages(queue=48.0)),
        "batch_timeout_s",
        "62 48 55",
    ),
    "too few workers": (
        result("e1", 60.0, machine=MACHINE | {"cores": 8}, mean_ms=67.0, **IDLE, **stages(queue=45.0)),
        "workers_per_device",
        "67 45 1 55",
    ),
    "too many workers": (result("e1", 10.0, serve=FOUR_WORKERS), "workers_per_device", "10.0 4 2"),
    "small batches": (
        result("e1", 39.0, more=[turn("e1", "pipeline", 40.0)], in_process={"batch_size": 4.0}),
        "max_batch_size",
        "1.0 40.0 100.0 4",
    ),
    "large batches": (
        result(
            "e1", 62.0, serve=BATCHING, more=[turn("e1", "pipeline", 60.0, batch_size=8.0)], batch_size=7.0
        ),
        "max_batch_size",
        "7.0 100.0 1",
    ),
    "HTTP process": (result("e1", 60.0, http_cpu_ms=16.0), "transport", "16.0 0.96"),
    "manager process": (result("e1", 60.0, manager_cpu_ms=16.0), "transport", "16.0 0.96"),
    "load generator": (result("e1", 60.0), None, "86"),
    "unexplained": (result("e1", 60.0), None, "10 95"),
}


@pytest.mark.parametrize("cause", CAUSES)
def test_each_cause_is_named_with_its_figures(cause: str) -> None:
    own, parameter, figures = CAUSES[cause]
    roofline = 1100.0 if cause == "kernels" else 110.0
    client = 70.0 if cause == "load generator" else 2000.0
    found = limit(own, roofline_full_rps=roofline, client_limit_rps=client)
    assert (found.cause, found.parameter) == (cause, parameter)
    assert set(figures.split()) <= set(re.findall(r"[\d,]+(?:\.\d+)?", found.text))
    if parameter:
        assert f"`{parameter}`" in found.text


def test_emulated_bfloat16_is_the_cause_whatever_else_is_slow() -> None:
    half = ServeSettings(precision="half", workers_per_device=4)
    emulating = MACHINE | {"cpu_flags": ["avx2"]}
    found = limit(result("e4", 0.8, 1.7, 1.6, serve=half, machine=emulating))
    assert (found.cause, found.parameter) == ("bfloat16 is emulated", "precision")
    assert limit(result("e4", 0.8, 1.7, 1.6, serve=half)).cause != found.cause
    # What is emulated is no advice.
    assert limit(result("e1", 99.0, machine=emulating), roofline_full_rps=101.0).parameter != "precision"


def test_hardware_is_named_where_the_model_reaches_its_peak() -> None:
    """On a steady machine, or it would not be resolved."""
    steady = [turn("e1", work, 100.0, number) for number in range(6) for work in ("model", "served")]
    own = replace(result("e1", 100.0), turns=steady)
    found = limit(own, roofline_full_rps=110.0)
    assert (found.cause, found.parameter) == ("hardware", "precision")


def test_without_a_loss_beyond_the_intervals_no_cause_is_named() -> None:
    assert limit(result("e1", 99.0), roofline_full_rps=101.0).cause == ""


def test_a_row_of_an_earlier_run_has_no_cause() -> None:
    assert limit(replace(result("e1", 10.0), turns=[])).cause == ""


def test_settings_already_in_use_are_not_advised() -> None:
    tuned = ServeSettings(precision="half", transport="direct", compiled=True, preprocess="torchvision")
    for own, cause in [
        (result("e1", 49.0, 100.0, 50.0, serve=tuned), "preprocessing"),
        (result("e1", 66.0, serve=tuned, null={"server_cores": 7.2}, client_cpu_ms=1.0), "transport"),
        (result("e1", 60.0, serve=tuned, http_cpu_ms=16.0), "HTTP process"),
    ]:
        found = limit(own, roofline_half_rps=110.0)
        assert (found.cause, found.parameter) == (cause, None)
        assert "no key of `serve:` moves it" in found.text


def test_a_window_that_explains_half_of_the_loss_is_named() -> None:
    """It is no third of the latency: 9 of 40 ms."""
    serve = BATCHING.model_copy(update={"batch_timeout_s": 0.01})
    waits = {"mean_ms": 40.0, **IDLE, **stages(queue=9.0)}
    row = compared("e1", 80.0, 1)
    assert limit(result("e1", 80.0, serve=serve, row=row, **waits)).cause == "batch window"
    busy = waits | {"cpu_percent": 95.0}
    assert limit(result("e1", 80.0, serve=serve, row=row, **busy)).cause == "unexplained"


def test_preprocessing_on_idle_cores_calls_for_workers() -> None:
    found = limit(result("e1", 49.0, 100.0, 50.0, in_process={"cpu_percent": 50.0}))
    assert (found.cause, found.parameter) == ("preprocessing", "workers_per_device")
    assert "with fewer threads than 2 in each" in found.text


def test_a_larger_loss_above_the_model_comes_first() -> None:
    own = result("e1", 60.0, http_cpu_ms=16.0)
    found = limit(own, roofline_full_rps=800.0)
    assert (found.cause, found.parameter) == ("kernels, then HTTP process", "compiled")
    assert found.loss is not None
    assert found.loss.name == "model"
    assert limit(own).cause == "HTTP process"


def test_losses_that_cannot_be_told_apart_are_a_tie() -> None:
    own = result("e1", 40.0, 100.0, 63.0, http_cpu_ms=24.0)
    assert limit(own).cause == "preprocessing or HTTP process"
    assert " or " not in limit(result("e1", 20.0, 100.0, 63.0, http_cpu_ms=48.0)).cause
