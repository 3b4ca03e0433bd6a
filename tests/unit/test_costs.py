"""What an item costs, and the rate that follows, by hand."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError

from litmeter.kinds.costs import CostCeiling, CostCeilings, Costs, roofline
from litmeter.kinds.lit_api import LitApi
from litmeter.report.diagnosis import bounds_of, diagnose
from litmeter.report.results import Result
from litmeter.report.tables import capacity_text
from litmeter.settings import explain
from tests.support.capacity import CAPACITY
from tests.support.project import ROOT
from tests.support.synthetic_results import result

WEIGHTS, EMBEDDING, MATRICES = 134_515_008, 28_311_552, 134_479_872
"""Of SmolLM2-135M: 49,152 x 576 in the embedding, 30 x 3,538,944 in layers, and 61 x 576 in norms."""


def test_arithmetic_or_memory_binds_a_plain_item() -> None:
    costs = Costs(flops=2e9, bytes=1e6, weights_bytes=1e8)
    alone = roofline(costs, flops=1e12, reading=1e10, at_once=1, overlap=False)
    assert alone is not None
    assert alone.bound == "memory"
    assert alone.rps == pytest.approx(1 / (101e6 / 1e10))
    together = roofline(costs, flops=1e12, reading=1e10, at_once=100, overlap=False)
    assert together is not None
    assert together.bound == "compute"
    assert together.rps == pytest.approx(1e12 / 2e9)
    assert roofline(Costs(), 1e12, 1e10, 1, overlap=False) is None


def test_memory_is_measured_by_what_is_read_together() -> None:
    """A buffer of no bytes would be read from the nearest cache."""
    assert Costs(weights_bytes=1e8, bytes=4e6).read_bytes(8) == 1e8
    assert Costs(bytes=4e6).read_bytes(8) == 32e6
    assert Costs(tokens=11, prompt_tokens=50, bytes_per_token=1e4).read_bytes(2) == 2 * 55e4


def test_a_generation_reads_the_weights_for_each_token_and_once_for_all_answers() -> None:
    costs = Costs(
        weights_bytes=1e8,
        tokens=11,
        prompt_tokens=50,
        flops_per_prompt_token=2e9,
        flops_per_token=1e8,
        bytes_per_token=1e4,
    )
    one = roofline(costs, flops=1e12, reading=1e10, at_once=1, overlap=False)
    # The prompt takes 0.1 s of arithmetic; ten tokens read the weights and, in the mean, 55 tokens before.
    assert one is not None
    assert one.rps == pytest.approx(1 / (0.1 + 10 * (1e8 + 55e4) / 1e10))
    four = roofline(costs, flops=1e12, reading=1e10, at_once=4, overlap=False)
    assert four is not None
    assert four.rps == pytest.approx(4 / (0.4 + 10 * (1e8 + 4 * 55e4) / 1e10))
    beside = roofline(costs, flops=1e12, reading=1e10, at_once=1, overlap=True)
    assert beside is not None
    assert beside.rps == pytest.approx(1 / max(0.1 + 10 * 1e-4, (11e8 + 10 * 55e4) / 1e10))


def test_a_token_of_the_example_costs_what_its_tensors_say(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location("example_model", ROOT / "examples/llm/model.py")
    assert spec is not None
    assert spec.loader is not None
    model = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(model)
    layer = 2 * 576 * 576 + 2 * 576 * 192 + 3 * 576 * 1536
    assert (49_152 * 576, 30 * layer + EMBEDDING, MATRICES + 61 * 576) == (EMBEDDING, MATRICES, WEIGHTS)
    shape = {"block_count": 30, "embedding_length": 576, "head_count": 9, "head_count_kv": 3}
    counted = {"weights": WEIGHTS, "matrices": MATRICES, "embedding": EMBEDDING, "file_bytes": 96_576_768}
    monkeypatch.setattr(model, "shape", lambda: shape | counted | {"prompt_tokens": 50.0})
    found = Costs.model_validate(model.costs("bfloat16", 2))
    assert found.weights_bytes == 2 * WEIGHTS
    assert found.bytes_per_token == 30 * 3 * 64 * 2 * 2  # keys and values of 3 heads of 64
    # 58 tokens to look back at: each head multiplies its query with their keys, and weighs their values.
    assert found.flops_per_token == 2 * MATRICES + 30 * 9 * (2 * 64 * 58 + 2 * 64 * 58)
    assert found.flops == 2 * EMBEDDING
    assert model.costs("int8")["weights_bytes"] == 96_576_768


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"flop": 1.0}, "flop: unknown key, did you mean flops? allowed: "),
        ({"dtype": "int4"}, "dtype: got 'int4'; allowed: 'float32', 'float16', 'bfloat16' or 'int8'"),
        ({"tokens": 0}, "tokens: got 0; "),
        ({"flops": -1.0}, "flops: got -1.0; "),
    ],
)
def test_wrong_costs_are_named(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as error:
        Costs.model_validate(given)
    assert explain(error.value, Costs).startswith(said)


def test_rooflines_that_a_model_exceeds_are_raised() -> None:
    ceiling = CostCeiling(costs=Costs(), at_once=1, peak_tflops=1.0, reading_gbs=1.0, roofline_rps=10.0)
    found = CostCeilings(configurations={"a": ceiling, "b": ceiling}).with_rooflines({"a": 12.0})
    assert (found.of("a").roofline_rps, found.of("b").roofline_rps) == (12.0, 10.0)
    assert found.of("other").roofline_rps is None


def chat(
    operators: dict[str, float], served: float = 2.0, **in_process: float
) -> tuple[Result, CostCeilings]:
    """A language model that in-process has a quarter of its roofline of 12 answers of 16 tokens a second."""
    own = result("chat", served, 3.0, 3.0, serve=LitApi(api="server:Chat"), in_process=in_process)
    costs = Costs(weights_bytes=1e8, tokens=16)
    ceiling = CostCeiling(
        costs=costs,
        at_once=1,
        peak_tflops=1.0,
        reading_gbs=20.0,
        roofline_rps=12.0,
        roofline_bound="memory",
        operators=operators,
    )
    return replace(own, tokens=16), CostCeilings(configurations={"chat": ceiling})


def test_the_ladder_of_a_language_model_is_in_tokens_a_second() -> None:
    own, ceilings = chat({})
    bounds = bounds_of(own, ceilings)
    assert [bound.name for bound in bounds] == ["roofline", "model", "pipeline", "served"]
    assert [bound.rate for bound in bounds] == pytest.approx([192.0, 48.0, 48.0, 32.0], rel=0.02)
    assert [bound.rate_rps for bound in bounds] == pytest.approx([12.0, 3.0, 3.0, 2.0], rel=0.02)
    assert "tokens/s" in diagnose(own, bounds, ceilings).text


@pytest.mark.parametrize(
    ("operators", "in_process", "cause"),
    [
        ({"products": 0.7, "others": 0.2, "between": 0.1}, {}, "kernels"),
        ({"products": 0.4, "others": 0.4, "between": 0.2}, {}, "other operators"),
        ({"products": 0.45, "others": 0.25, "between": 0.3}, {}, "Python between operators"),
        ({}, {"workers_cpu_ms": 630.0}, "kernels"),
        ({}, {"workers_cpu_ms": 400.0}, "idle cores"),
    ],
)
def test_what_binds_a_model_below_its_roofline_is_measured(
    operators: dict[str, float], in_process: dict[str, float], cause: str
) -> None:
    """Products that take a quarter of the time would take it at the roofline, too."""
    own, ceilings = chat(operators, 3.0, **in_process)
    assert cause in diagnose(own, bounds_of(own, ceilings), ceilings).cause


def test_a_server_that_is_not_run_in_process_has_its_share_of_the_roofline() -> None:
    own, ceilings = chat({})
    own = replace(own, turns=own.served, unavailable="it is async")
    own = replace(own, compared=replace(own.compared, model_rps=None, pipeline_rps=None))
    found = diagnose(own, bounds_of(own, ceilings), ceilings)
    assert found.cause == "not available"
    assert "32.0 tokens/s, 17% of the roofline of 192" in found.text


def test_a_capacity_of_streams_says_how_many_answers_are_under_way() -> None:
    metrics = replace(CAPACITY, slo_ms=None, first_ms=1000.0, mean_s=0.02)
    assert "6.00 answers (5.80 to 6.20) under way at once, 0.0200 s each" in capacity_text(metrics)
    assert "under way" not in capacity_text(replace(CAPACITY, mean_s=0.02))
