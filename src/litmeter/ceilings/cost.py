"""Cost of the model: parameters, MACs and FLOPs of one image, its memory traffic, and the roofline of both.

The roofline is that of Williams, Waterman and Patterson (2009): arithmetic or memory, whichever is slower. A
batch of b images takes at least the longer of b x FLOPs / peak and the time to move its bytes: the weights
once per batch, and for each image the activations that convolutions and matrix products read and write. The
operators between them (normalisation, activation functions) are assumed to be fused, and no activation to
stay in a cache.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from litmeter.errors import ModelError
from litmeter.system.without_compiler import lean_import

get_model_complexity_info = lean_import("ptflops").get_model_complexity_info  # it imports timm

BACKEND = "aten"
"""ptflops' backend that counts the operators that run. Its other one, ``pytorch``, hooks modules:
it misses functional calls, and is 3% lower on the default model."""
FLOPS_PER_MAC = 2
"""A multiply-accumulate is one multiplication and one addition; ptflops counts MACs."""


@dataclass(frozen=True)
class Cost:
    """Cost of one forward pass of one image.

    Attributes:
        parameters: number of weights and biases.
        macs: multiply-accumulates of convolutions and matrix products, by ptflops.
        torch_flops: FLOPs by torch's own counter, as a check.
    """

    parameters: int
    macs: int
    torch_flops: int

    @property
    def flops(self) -> int:
        """Floating-point operations, two to a MAC."""
        return FLOPS_PER_MAC * self.macs


def cost_of(model: torch.nn.Module, image_size: int) -> Cost:
    """Cost of ``model`` for a square image of ``image_size`` pixels.

    Raises:
        ModelError: ptflops could not trace the model.
    """
    shape = (3, image_size, image_size)
    macs, parameters = get_model_complexity_info(
        model, shape, print_per_layer_stat=False, as_strings=False, backend=BACKEND
    )
    if not macs or not parameters:
        raise ModelError("ptflops could not count the model's operations; its reason stands above")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(torch.zeros(1, *shape))
    return Cost(int(parameters), int(macs), int(counter.get_total_flops()))


BATCH_SIZES = tuple(2**k for k in range(9))
BYTES_PER_NUMBER = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1}
COUNTED_OPERATORS = {
    torch.ops.aten.convolution.default,
    torch.ops.aten.addmm.default,
    torch.ops.aten.mm.default,
    torch.ops.aten.bmm.default,
    torch.ops.aten.baddbmm.default,
}
"""Operators whose inputs and outputs count as memory traffic."""


@dataclass(frozen=True)
class Traffic:
    """Count of numbers that one forward pass moves: parameters once, activations for each image."""

    weights: int
    activations: int


@dataclass(frozen=True)
class Roofline:
    """The roofline of one precision.

    Attributes:
        rps: images per second at the best of BATCH_SIZES.
        bound: what limits the rate there, ``compute`` or ``memory``.
        batch_size: the smallest that is compute-bound, None where all are memory-bound.
    """

    rps: float
    bound: str
    batch_size: int | None


class _ActivationCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the activations of COUNTED_OPERATORS while a model runs."""

    def __init__(self, weights: set[int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.weights = weights
        self.activations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func in COUNTED_OPERATORS:
            moved = [
                arg for arg in args if isinstance(arg, torch.Tensor) and arg.data_ptr() not in self.weights
            ]
            self.activations += sum(tensor.numel() for tensor in [*moved, out])
        return out


def traffic_of(model: torch.nn.Module, image_size: int) -> Traffic:
    """Memory traffic of one forward pass of one square image, at least."""
    parameters = list(model.parameters())
    with torch.no_grad(), _ActivationCounter({p.data_ptr() for p in parameters}) as counter:
        model.eval()(torch.zeros(1, 3, image_size, image_size))
    return Traffic(sum(p.numel() for p in parameters), counter.activations)


def roofline(flops: int, traffic: Traffic, dtype: str, peak_flops: float, bandwidth: float) -> Roofline:
    """The roofline for ``dtype`` (torch's name); ``peak_flops`` in FLOP/s, ``bandwidth`` in bytes/s."""

    def compute_s(batch_size: int) -> float:
        return batch_size * flops / peak_flops

    def memory_s(batch_size: int) -> float:
        numbers = traffic.weights + batch_size * traffic.activations
        return BYTES_PER_NUMBER[dtype] * numbers / bandwidth

    def rps(batch_size: int) -> float:
        return batch_size / max(compute_s(batch_size), memory_s(batch_size))

    best = max(BATCH_SIZES, key=rps)
    compute_bound = [size for size in BATCH_SIZES if compute_s(size) >= memory_s(size)]
    return Roofline(
        rps=rps(best),
        bound="compute" if best in compute_bound else "memory",
        batch_size=min(compute_bound, default=None),
    )
