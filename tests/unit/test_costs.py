"""What an item costs, and the rate that follows, by hand."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest
from pydantic import ValidationError

from litmeter.kinds.costs import CostCeiling, CostCeilings, Costs, roofline
from litmeter.settings import explain
from tests.support.project import ROOT

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
