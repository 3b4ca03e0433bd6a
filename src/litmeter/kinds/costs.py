"""What an item costs at least, as its server says, and the rate that a machine allows for it.

The roofline is that of Williams, Waterman and Patterson (2009): arithmetic or memory, whichever takes longer.
A generation is a prompt, worked on at once, then tokens, one after another: each step reads the weights once
for all answers in it, and for each answer the keys and values of the tokens before.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from pydantic import Field

from litmeter.settings import Count, NotNegative, Section
from litmeter.system.files import Record

Dtype = Literal["float32", "float16", "bfloat16", "int8"]


class Costs(Section):
    """FLOPs and bytes of an item, or of a generation; what is not counted makes the roofline higher."""

    dtype: Dtype = Field("float32", description="numbers of the arithmetic, by whose peak it is bounded")
    flops: NotNegative = Field(0.0, description="of an item; of a generation, see prompt_tokens")
    bytes: NotNegative = Field(0.0, description="read for an item besides the weights")
    weights_bytes: NotNegative = Field(0.0, description="read for a batch; and for each step of a generation")
    tokens: Count | None = Field(None, description="of an answer, the first included; absent: no generation")
    prompt_tokens: NotNegative = Field(0.0, description="of a prompt, the mean")
    flops_per_prompt_token: NotNegative = 0.0
    flops_per_token: NotNegative = 0.0
    bytes_per_token: NotNegative = Field(0.0, description="keys and values of a token, for each later one")
    at_once: Count | None = Field(None, description="most items in a batch or step; absent: max_batch_size")

    @property
    def held(self) -> float:
        """Bytes of keys and values that a token reads, in the mean."""
        return self.bytes_per_token * (self.prompt_tokens + ((self.tokens or 1) - 1) / 2)

    def read_bytes(self, at_once: int) -> int:
        """Bytes that are read together, by which the memory is measured: the weights, or those of a batch."""
        return int(self.weights_bytes or at_once * (self.bytes + self.held))


class Roofline(NamedTuple):
    """The rate of items, and which of ``compute`` and ``memory`` takes most of the time."""

    rps: float
    bound: str


def roofline(costs: Costs, flops: float, reading: float, at_once: int, *, overlap: bool) -> Roofline | None:
    """The highest rate of items with ``at_once`` of them in each batch; None for an item that costs nothing.

    Args:
        flops: FLOP/s.
        reading: bytes/s.
        overlap: whether the arithmetic of some batches can take place while others read memory.
    """
    further = (costs.tokens or 1) - 1
    prompt_flops = costs.flops + costs.prompt_tokens * costs.flops_per_prompt_token
    phases = [  # times they occur, FLOPs, bytes: of all items in a batch
        (1, at_once * prompt_flops, costs.weights_bytes + at_once * costs.bytes),
        (further, at_once * costs.flops_per_token, costs.weights_bytes + at_once * costs.held),
    ]
    times = [(number * arithmetic / flops, number * read / reading) for number, arithmetic, read in phases]
    compute_s, memory_s = (sum(own) for own in zip(*times, strict=True))
    seconds = max(compute_s, memory_s) if overlap else sum(map(max, times))
    if not seconds:
        return None
    return Roofline(at_once / seconds, "compute" if compute_s > memory_s else "memory")


class CostCeiling(Record):
    """What a machine allows one configuration; None: not available.

    Attributes:
        at_once: items in each batch or step, at most.
        peak_tflops, reading_gbs: measured: arithmetic, and reading as many bytes as weights or batch have.
        datasheet_rps: items per second if only arithmetic took time, by a datasheet's peak.
        roofline_rps, roofline_bound: items per second, and "compute" or "memory".
        operators: shares of the time of an answer in-process, by torch's profiler: of matrix products, other
            operators, and Python between them.
    """

    costs: Costs
    at_once: int
    peak_tflops: float
    reading_gbs: float
    datasheet_rps: float | None = None
    roofline_rps: float | None = None
    roofline_bound: str | None = None
    operators: Mapping[str, float] = {}


class CostCeilings(Record):
    """What a machine allows configurations whose costs are known, by name."""

    configurations: Mapping[str, CostCeiling]

    def of(self, name: str | None) -> Any:
        """The ceiling of a configuration; one without any figure where its costs are not known."""
        return self.configurations.get(name or "", NO_CEILING)

    def with_rooflines(self, rates_rps: Mapping[str, float]) -> CostCeilings:
        """The same with other rooflines, by configuration."""
        raised = {
            name: own.model_copy(update={"roofline_rps": rates_rps[name]}) if name in rates_rps else own
            for name, own in self.configurations.items()
        }
        return CostCeilings(configurations=raised)


NO_CEILING = CostCeiling(costs=Costs(), at_once=1, peak_tflops=0.0, reading_gbs=0.0)
